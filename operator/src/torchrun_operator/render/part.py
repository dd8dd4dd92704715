"""A part is one feature of rendering. The pieces that parts return add up to a pod."""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.namespace import NO_RULES, NamespaceRules
from torchrun_operator.render.programs import Programs

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Installation:
    """The facts about this operator, and about the namespace of the job, that manifests need."""

    programs: Programs
    namespace: str | None
    """The namespace of the operator, if known."""
    rules: NamespaceRules = NO_RULES
    """The rules of the job's namespace."""


@dataclass(frozen=True)
class Piece:
    """What one part adds to a pod. Two parts must not set the same field, label or annotation."""

    env: tuple[Manifest, ...] = ()
    """EnvVars of the main container. The user's follow, so that they can refer to these and override them."""
    env_from: tuple[Manifest, ...] = ()
    """EnvFromSources of the main container. The user's follow."""
    mounts: tuple[Manifest, ...] = ()
    """VolumeMounts of the main container, after the user's."""
    volumes: tuple[Manifest, ...] = ()
    """Volumes of the pod, after the user's."""
    init_containers: tuple[Manifest, ...] = ()
    """Init containers of the pod, before the user's, which may use what they prepare."""
    container_fields: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the main container. They replace the user's."""
    pod_fields: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the pod's spec. They replace the user's."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Self) -> Self:
        """Return both pieces in one. Raises ValueError if both set the same field, label or annotation."""
        return type(self)(
            **{one.name: _added(one.name, getattr(self, one.name), getattr(other, one.name)) for one in fields(self)}
        )

    def add_to(self, pod_spec: Manifest, container: Manifest) -> None:
        """Add everything but labels and annotations to the spec of a pod and to its main container."""
        pod_spec.update(self.pod_fields)
        _extend(container, "env", before=self.env)
        _extend(container, "envFrom", before=self.env_from)
        _extend(container, "volumeMounts", after=self.mounts)
        container.update(self.container_fields)
        _extend(pod_spec, "initContainers", before=self.init_containers)
        _extend(pod_spec, "volumes", after=self.volumes)


def total(pieces: Iterable[Piece]) -> Piece:
    """Return all pieces in one."""
    return functools.reduce(operator.add, pieces, Piece())


def _added(name: str, first: Any, second: Any) -> Any:  # noqa: ANN401 - any field of a piece
    if isinstance(first, tuple):
        return first + second
    if twice := first.keys() & second.keys():
        raise ValueError(f"two parts set {', '.join(sorted(twice))} in {name}")
    return {**first, **second}


def _extend(target: Manifest, key: str, *, before: tuple[Manifest, ...] = (), after: tuple[Manifest, ...] = ()) -> None:
    if before or after:
        target[key] = [*before, *(target.get(key) or []), *after]


def _no_problems(_: TorchrunJobSpec) -> Iterable[Problem]:
    return ()


def _no_prerequisites(_: TorchrunJob, __: Installation) -> Iterable[Manifest]:
    return ()


def _no_objects(_: TorchrunJob) -> Iterable[Manifest]:
    return ()


def _no_node_piece(_: TorchrunJob, __: int) -> Piece:
    return Piece()


def _no_rendezvous_piece(_: TorchrunJob) -> Piece:
    return Piece()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One feature of rendering. All functions are pure, and return new objects at each call."""

    problems: Callable[[TorchrunJobSpec], Iterable[Problem]] = _no_problems
    """What is wrong with the fields of this feature. The other functions get jobs without problems only."""
    prerequisites: Callable[[TorchrunJob, Installation], Iterable[Manifest]] = _no_prerequisites
    """Objects that must exist before the pods. The operator keeps them as they are here."""
    claims: Callable[[TorchrunJob], Iterable[Manifest]] = _no_objects
    """Objects that must exist before the pods. They belong to the user: the operator only creates them."""
    unwanted: Callable[[TorchrunJob], Iterable[Manifest]] = _no_objects
    """Objects of an earlier spec that must not exist: their kind and metadata."""
    services: Callable[[TorchrunJob], Iterable[Manifest]] = _no_objects
    """Services with the DNS names of the pods."""
    node: Callable[[TorchrunJob, int], Piece] = _no_node_piece
    """What the feature adds to the pod of the node with that index."""
    rendezvous: Callable[[TorchrunJob], Piece] = _no_rendezvous_piece
    """What the feature adds to the rendezvous pod."""
