#!/bin/sh
# Starts the archive that follows with a Python: that of the command, the one in PATH, or that of torchrun's agent.
python=
if [ "$1" = --first ]; then
    program=$(command -v "$2")
    case ${program##*/} in
    python*) python=$program ;;
    *) [ -r "$program" ] && IFS= read -r line <"$program" && line=${line#"#!"} && python=${line%% *} ;;
    esac
    case ${python##*/} in python*) ;; *) python= ;; esac
fi
[ -x "$python" ] || python=$(command -v python3) || python=$(readlink "/proc/$PPID/exe" 2>/dev/null)
case ${python##*/} in python*) exec "$python" "$0" "$@" ;; esac
# There is none.
case $1 in
--start) exit 0 ;; # a hook that fails would end the container
--first) ;;
*) echo "torchrun-operator: there is no python3 in PATH" >&2 && exit 127 ;;
esac
shift
unset PYTHON_EXEC
echo "torchrun-operator: this node starts cold: there is no python3 in PATH" >&2
exec "$@"
