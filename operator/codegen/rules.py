"""The validation rules of a TorchrunJob, in CEL: the API server rejects a job that breaks one.

`torchrun_operator.render.validation` repeats them, for jobs that were stored before a rule existed.
"""

from pydantic.alias_generators import to_camel
from rule import IS_RESERVED, Rule, strings
from static_rules import STATIC_RULES
from transfer_rules import TRANSFER_RULES

from torchrun_operator.api import remedies
from torchrun_operator.api.names import (
    ALLOWED_NCCL_PREFIXES,
    GROUP,
    MAX_FILES_BYTES,
    MAX_JOB_NAME_LENGTH,
    MAX_NODES,
    MAX_PROCESSES_PER_NODE,
    MIN_PROGRESS_DEADLINE,
    PORT_HTTP,
    RENDEZVOUS_CONTAINER,
    RENDEZVOUS_ENV_PREFIX,
    RENDEZVOUS_RESOURCES,
    RESERVED_DIRECTORIES,
    RESERVED_PREFIX,
    RESERVED_RDZV_CONF,
    TERMINATION_LOG,
    TRAINER_CONTAINER,
)
from torchrun_operator.api.v1alpha1 import FROZEN


def _own_keys(template: str) -> list[Rule]:
    """Return the rules that reserve the keys of the operator in the metadata of a template."""
    return [
        Rule(
            f"{template}.metadata.{kind}",
            f"self.all(key, !key.startsWith('{GROUP}/'))",
            remedies.METADATA_KEY,
            reason="FieldValueForbidden",
        )
        for kind in ("labels", "annotations")
    ]


_RANGE = "matches('^[0-9]{1,9}(:[0-9]{1,9})?$')"
_CONTAINERS = "self.template.spec.containers"
_NOT_TRAINER = f"self.name != '{TRAINER_CONTAINER}'"
_PATH = "matches('^(/[^/:]+)+$') && !self.split('/').exists(part, part == '.' || part == '..')"
_OWN_PATHS = f"matches('^/({'|'.join(RESERVED_DIRECTORIES)})(/|$)')"

_NAME = Rule(
    "",
    f"size(self.metadata.name) <= {MAX_JOB_NAME_LENGTH} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    remedies.JOB_NAME,
    field=".metadata.name",
)

_NODES = (
    Rule(
        "spec.nnodes",
        f"type(self) == int || self.{_RANGE}",
        'write a number of nodes such as 4, or "MIN:MAX" such as "2:4"',
    ),
    Rule(
        "spec.nnodes",
        f"type(self) == int || !self.{_RANGE} || !self.contains(':') "
        "|| int(self.split(':')[0]) <= int(self.split(':')[1])",
        'MIN is greater than MAX; write the smaller number first, such as "2:4"',
        """'MIN is greater than MAX; write "' + self.split(':')[1] + ':' + self.split(':')[0] + '"'""",
    ),
    Rule(
        "spec.nnodes",
        f"type(self) == int ? self >= 1 : !self.{_RANGE} || int(self.split(':')[0]) >= 1",
        "MIN must be at least 1; to stop the job, set spec.suspend to true",
    ),
    Rule(
        "spec.nnodes",
        f"type(self) == int ? self <= {MAX_NODES} "
        f": !self.{_RANGE} || int(self.split(':')[self.split(':').size() - 1]) <= {MAX_NODES}",
        f"MAX must be at most {MAX_NODES}, the maximum number of nodes of a job",
    ),
    Rule(
        "spec",
        "!has(self.replicas) || self.replicas >= 1",
        remedies.REPLICAS_BELOW_ONE,
        field=".replicas",
    ),
    Rule(
        "spec",
        "!has(self.replicas) || self.replicas < 1 || (type(self.nnodes) == int ? self.replicas == self.nnodes "
        f": !self.nnodes.{_RANGE} || (self.replicas >= int(self.nnodes.split(':')[0]) "
        "&& self.replicas <= int(self.nnodes.split(':')[self.nnodes.split(':').size() - 1])))",
        "must be from MIN to MAX of spec.nnodes; change this field or spec.nnodes",
        "'must be from MIN to MAX of spec.nnodes, which is ' + string(self.nnodes) "
        "+ '; change this field or spec.nnodes'",
        field=".replicas",
    ),
    Rule(
        "spec",
        f"!has(self.elasticity) || !has(self.elasticity.spares) || self.elasticity.spares + (type(self.nnodes) == int "
        f"? self.nnodes : !self.nnodes.{_RANGE} ? 0 "
        f": int(self.nnodes.split(':')[self.nnodes.split(':').size() - 1])) <= {MAX_NODES}",
        remedies.SPARES,
        field=".elasticity.spares",
    ),
    Rule(
        "spec.elasticity",
        "!has(self.preload) || size(self.preload) == 0 || !has(self.warmStart) || self.warmStart",
        remedies.PRELOAD,
        field=".preload",
    ),
    Rule(
        "spec.nprocPerNode",
        f"type(self) == int ? self >= 1 && self <= {MAX_PROCESSES_PER_NODE} : self in ['gpu', 'cpu', 'auto'] "
        f"|| (self.matches('^[0-9]{{1,9}}$') && int(self) >= 1 && int(self) <= {MAX_PROCESSES_PER_NODE})",
        f"write a number from 1 to {MAX_PROCESSES_PER_NODE}, or one of gpu, cpu, auto",
    ),
)

_DEADLINES = (
    Rule(
        "spec.progressDeadlineSeconds",
        f"self == 0 || self >= {MIN_PROGRESS_DEADLINE}",
        remedies.PROGRESS_DEADLINE,
    ),
    Rule(
        "spec.failurePolicy.rules[]",
        "self.action != 'Ignore' || has(self.exitCodes) || (has(self.signals) && size(self.signals) > 0) "
        "|| (has(self.reasons) && size(self.reasons) > 0) || (has(self.messages) && size(self.messages) > 0)",
        remedies.IGNORE_ALL,
    ),
)

_WIRING = (
    Rule(
        "spec.rendezvous.port",
        f"self != {PORT_HTTP}",
        remedies.CONTROL_PORT,
    ),
    Rule(
        "spec.rendezvous.conf",
        f"self.all(key, !(key in {strings(RESERVED_RDZV_CONF)}))",
        f"remove {', '.join(RESERVED_RDZV_CONF)}: the operator sets them",
        f"'remove ' + self.filter(key, key in {strings(RESERVED_RDZV_CONF)})[0] + ': the operator sets it'",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec.rendezvous.conf",
        "self.all(key, key.matches('^[a-z][a-z0-9_]*$') && self[key].matches('^[^,=]*$'))",
        remedies.RDZV_CONF,
    ),
    Rule(
        "spec.nccl.env",
        f"self.all(name, name.matches('^({'|'.join(ALLOWED_NCCL_PREFIXES)})_[A-Z0-9_]+$'))",
        f"names must start with {'_, '.join(ALLOWED_NCCL_PREFIXES)}_; move other variables to the env of the container "
        f"{TRAINER_CONTAINER}",
    ),
)

_FILES = (
    Rule(
        "spec.files",
        f"self.map(file, size(file.content)).sum() <= {MAX_FILES_BYTES}",
        remedies.FILES_TOO_LARGE,
    ),
    Rule(
        "spec.files",
        "self.all(file, !self.exists(other, file.path.startsWith(other.path + '/')))",
        remedies.FILE_INSIDE_FILE,
    ),
    Rule(
        "spec.files[].path",
        f"self.{_PATH}",
        remedies.FILE_PATH,
    ),
    Rule(
        "spec.files[].path",
        f"!self.{_OWN_PATHS}",
        remedies.FILE_PATH_RESERVED,
        reason="FieldValueForbidden",
    ),
)

_SNAPSHOTS = (
    Rule(
        "spec.snapshots",
        "has(self.claimName) || has(self.volumeClaimTemplate)",
        remedies.NO_CLAIM,
        reason="FieldValueRequired",
    ),
    Rule(
        "spec.snapshots",
        "!has(self.claimName) || !has(self.volumeClaimTemplate)",
        remedies.TWO_CLAIMS,
    ),
    Rule(
        "spec.snapshots.volumeClaimTemplate.spec",
        "has(self.accessModes) && size(self.accessModes) > 0",
        remedies.ACCESS_MODES,
        field=".accessModes",
        reason="FieldValueRequired",
    ),
    Rule(
        "spec.snapshots.volumeClaimTemplate.spec",
        "has(self.resources) && has(self.resources.requests) && 'storage' in self.resources.requests",
        remedies.STORAGE,
        field=".resources",
        reason="FieldValueRequired",
    ),
    Rule(
        "spec.snapshots.mountPath",
        f"self.{_PATH}",
        remedies.MOUNT_PATH,
    ),
    Rule(
        "spec.snapshots.mountPath",
        f"!self.{_OWN_PATHS}",
        remedies.MOUNT_PATH_RESERVED,
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec",
        "!has(self.snapshots) || !has(self.files) || self.files.all(file, file.path != self.snapshots.mountPath "
        "&& !file.path.startsWith(self.snapshots.mountPath + '/') "
        "&& !self.snapshots.mountPath.startsWith(file.path + '/'))",
        remedies.MOUNT_PATH_AND_FILE,
        field=".snapshots.mountPath",
    ),
    Rule(
        "spec",
        f"!has(self.snapshots) || {_CONTAINERS}.all(c, c.name != '{TRAINER_CONTAINER}' || !has(c.volumeMounts) "
        "|| c.volumeMounts.all(mount, mount.mountPath != self.snapshots.mountPath))",
        remedies.MOUNT_PATH_TAKEN,
        field=".snapshots.mountPath",
    ),
    Rule(
        "spec",
        f"!has(self.files) || {_CONTAINERS}.all(c, c.name != '{TRAINER_CONTAINER}' || !has(c.volumeMounts) "
        "|| c.volumeMounts.all(mount, self.files.all(file, mount.mountPath != file.path)))",
        remedies.FILE_ON_MOUNT,
        field=".files",
    ),
)

_TEMPLATE = (
    Rule(
        "spec.template.spec.containers",
        f"self.exists_one(c, c.name == '{TRAINER_CONTAINER}')",
        remedies.ONE_TRAINER,
    ),
    Rule(
        "spec.template.spec.containers[]",
        "has(self.image) && self.image != ''",
        remedies.IMAGE,
        field=".image",
        reason="FieldValueRequired",
    ),
    Rule(
        "spec.template.spec.containers[]",
        f"{_NOT_TRAINER} || !has(self.env) || !self.env.exists(e, {IS_RESERVED})",
        f"the operator or torchrun sets one of these variables; {remedies.RESERVED_ENV}",
        f"'the operator or torchrun sets ' + self.env.filter(e, {IS_RESERVED})[0].name + '; {remedies.RESERVED_ENV}'",
        field=".env",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec.template.spec.containers[]",
        f"{_NOT_TRAINER} || !has(self.terminationMessagePath) || self.terminationMessagePath == '{TERMINATION_LOG}'",
        remedies.TERMINATION_PATH,
        field=".terminationMessagePath",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec.template.spec.containers[]",
        f"{_NOT_TRAINER} || !has(self.restartPolicy) || self.restartPolicy == 'Never'",
        remedies.RESTART_POLICY,
        field=".restartPolicy",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec.template.spec",
        "!has(self.restartPolicy) || self.restartPolicy == 'Never'",
        remedies.RESTART_POLICY,
        field=".restartPolicy",
    ),
    *(
        Rule(
            "spec.template.spec",
            f"!has(self.{name})",
            remedies.host_name(name),
            field=f".{name}",
            reason="FieldValueForbidden",
        )
        for name in ("hostname", "hostnameOverride", "subdomain")
    ),
    Rule(
        "spec.template.spec",
        "!has(self.hostNetwork) || !self.hostNetwork",
        remedies.HOST_NETWORK,
        field=".hostNetwork",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec.template.spec",
        "!has(self.activeDeadlineSeconds)",
        remedies.POD_DEADLINE,
        field=".activeDeadlineSeconds",
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec.template.spec.volumes[].name",
        f"!self.startsWith('{RESERVED_PREFIX}')",
        remedies.VOLUME_NAME,
        reason="FieldValueForbidden",
    ),
    *_own_keys("spec.template"),
)

_RENDEZVOUS = (
    Rule(
        "spec.rendezvous.template.spec.containers",
        f"self.all(c, c.name == '{RENDEZVOUS_CONTAINER}')",
        remedies.ONE_RENDEZVOUS,
    ),
    Rule(
        "spec.rendezvous.template.spec.containers[].env[].name",
        f"!self.startsWith('{RENDEZVOUS_ENV_PREFIX}')",
        remedies.RENDEZVOUS_ENV,
        reason="FieldValueForbidden",
    ),
    *(
        Rule(
            f"spec.rendezvous.template.spec.containers[].resources.{kind}",
            f"self.all(key, key in {strings(RENDEZVOUS_RESOURCES)})",
            remedies.RENDEZVOUS_RESOURCES_ONLY,
            reason="FieldValueForbidden",
        )
        for kind in ("requests", "limits")
    ),
    *_own_keys("spec.rendezvous.template"),
)

_FROZEN = tuple(
    Rule(
        "spec",
        f"self.suspend || oldSelf.suspend || (has(self.{name}) == has(oldSelf.{name}) "
        f"&& (!has(self.{name}) || self.{name} == oldSelf.{name}))",
        "cannot be changed while the job is not suspended: set spec.suspend to true, or create a new job",
        field=f".{name}",
        reason="FieldValueForbidden",
    )
    for name in map(to_camel, FROZEN)
)
_FINAL = Rule(
    "spec",
    "has(self.managedBy) == has(oldSelf.managedBy) && (!has(self.managedBy) || self.managedBy == oldSelf.managedBy)",
    "cannot be changed: another controller may already act on the job; create a new job",
    field=".managedBy",
    reason="FieldValueForbidden",
)

RULES: tuple[Rule, ...] = (
    _NAME,
    *_NODES,
    *_DEADLINES,
    *_WIRING,
    *_FILES,
    *_SNAPSHOTS,
    *TRANSFER_RULES,
    *_TEMPLATE,
    *_RENDEZVOUS,
    *STATIC_RULES,
    *_FROZEN,
    _FINAL,
)
