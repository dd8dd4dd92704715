#!/bin/bash
# Started in each pod by itself, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT from the system that made the pod.
set -eu
echo "worker $RANK of $WORLD_SIZE, the first at $MASTER_ADDR:$MASTER_PORT"
exec python3 /scripts/train.py "$@"
