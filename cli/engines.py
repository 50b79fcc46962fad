"""Where work on many files is done: options that several commands share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import Transfer
from .menus import Device, EngineName
from .options import device_of

if TYPE_CHECKING:
    from ..jobs.processes import Engine

EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="local: processes of this machine; ray: a Ray cluster.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT|auto",
        help="The cluster's head; auto: the cluster this machine belongs to. Default: RAY_ADDRESS, else a Ray that is "
        "started here for the time.",
    ),
]
Gpus = Annotated[
    float, typer.Option("--gpus-per-task", min=0, help="With ray: GPUs of each task, such as 0.25; 0 for CPUs.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help=f"With local: processes at a time. Default: one per core up to {Transfer.processes}; GPU: 1.",
    ),
]


def engine_of(
    engine: EngineName, address: str | None, gpus_per_task: float, jobs: int | None
) -> AbstractContextManager[Engine]:
    """The engine that the options ask for, to be opened; a usage error where they contradict one another."""
    if engine.value == "local":
        for name, given in (("--address", address), ("--gpus-per-task", gpus_per_task)):
            if given:
                raise typer.BadParameter("is for --engine ray", param_hint=name)
        from ..jobs.processes import LocalEngine

        return nullcontext(LocalEngine(jobs))
    if jobs:
        raise typer.BadParameter("is for --engine local: Ray knows the cluster's cores", param_hint="--jobs")
    from ..jobs.ray_tasks import RayEngine

    return RayEngine(address, gpus=gpus_per_task)


def device_for(engine: EngineName, gpus_per_task: float, device: Device) -> str:
    """Where a task computes: with Ray on the GPU that the task is given, if it is given one."""
    if engine.value == "local":
        return device_of(device)
    if (device is Device.cuda and not gpus_per_task) or (device is Device.cpu and gpus_per_task):
        raise typer.BadParameter(
            f"--device {device.value} and --gpus-per-task {gpus_per_task:g} contradict", param_hint="--device"
        )
    return "cuda" if gpus_per_task else "cpu"
