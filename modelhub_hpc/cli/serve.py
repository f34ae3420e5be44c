"""`mh-hpc serve`: models over HTTP until a signal ends it."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from modelhub_hpc import config
from modelhub_hpc.cli.options import json_option, site_flags, site_options
from modelhub_hpc.cli.output import Voice, one_line, voice_of
from modelhub_hpc.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help and completion are quick
    from modelhub_hpc.service import ServiceSettings

_FOR_SERVERS = (
    "runtime",
    "gpu",
    "mem_mb",
    "threads",
    "case_timeout_s",
    "start_timeout_s",
    "nan",
    "max_output_mb",
    "allow_network",
    "partition",
    "account",
    "qos",
    "time",
    "gres",
    "sbatch_args",
    "scratch_dir",
    "registries",
)
_folder = click.Path(path_type=Path)
_UPLOAD_MB = 512


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Default 0: any that is free.")
@click.option("--bind", default="127.0.0.1", metavar="ADDRESS|unix:FILE", help="Where to listen. Default 127.0.0.1.")
@click.option("--token-file", type=_folder, metavar="FILE", help="Take the token from FILE; else it is new each time.")
@click.option("--no-auth", is_flag=True, help="Let in every user of this machine, as ModelHub did. Loopback only.")
@click.option("--host-name", "host_names", multiple=True, metavar="NAME", help="The server is also addressed as NAME.")
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Pages of this other server may use this one.")
@click.option("--sessions", type=click.IntRange(1), default=1, metavar="N", help="Most processes per model. Default 1.")
@click.option(
    "--waiting", type=click.IntRange(1, 500), default=32, metavar="N", help="Predictions that may wait. Default 32."
)
@click.option(
    "--idle", "idle_s", type=float, default=900.0, metavar="SECONDS", help="End a model nobody uses. Default 900."
)
@click.option("--max-upload", type=click.IntRange(1), default=_UPLOAD_MB, metavar="MIB", help="Default 512.")
@click.option(
    "--receive", "receive_s", type=float, default=30.0, metavar="SECONDS",
    help="In which a request has to be here, beside 16 s for each MiB. Default 30.",
)
@click.option("--url-inputs", is_flag=True, help="Fetch inputs from addresses of the public internet.")
@click.option(
    "--allow-root", "roots", multiple=True, type=_folder, metavar="FOLDER", help="Jobs may name files in FOLDER."
)
@click.option(
    "--jobs-folder", "jobs", type=_folder, metavar="FOLDER", help="Where jobs keep their runs. Default ./runs."
)
@click.option(
    "--backend", type=click.Choice(["local", "slurm"]), default="local",
    help="Where models run: here (default), or in SLURM jobs that begin and end as they are needed.",
)
@click.option(
    "--job-wait", "queue_s", type=float, default=120.0, metavar="SECONDS",
    help="A request waits for a job of SLURM to start. Default 120.",
)
@json_option
@site_options(_FOR_SERVERS)
def serve(
    models: tuple[str, ...],
    port: int,
    bind: str,
    token_file: Path | None,
    no_auth: bool,
    backend: Literal["local", "slurm"],
    as_json: bool,
    **given: Any,
) -> int:
    """Serve MODELs over HTTP: ModelHub's REST, jobs, and pages to look at and try them. Default: all that are here.

    Each model has processes of its own, started when they are needed. Only who knows the token is let in. Ctrl-C ends
    it, after the requests that are being answered.
    """
    from modelhub_hpc.service import server
    from modelhub_hpc.service.served import Service, find, private_folder

    jobs_site = config.load(site_flags(given))
    site = dataclasses.replace(jobs_site, executor=backend)
    token = _token(token_file, no_auth, bind)
    voice = voice_of(as_json)
    wanted = find(models, site)
    os.umask(0o027 if site.group_readable else 0o077)  # once: it is every thread's
    with server.listen(bind, port) as listening, private_folder(site) as folder:
        service = Service(_settings(site, jobs_site, token, folder, bind, given), wanted)
        try:
            running = server.Server(service, listening)
            with running.stopped_by_signals():
                _tell(service.settings, bind, listening.getsockname(), list(service.models), voice)
                running.serve()
        finally:
            service.close()
    voice.say("The server is ended.")
    return EXIT_DONE


def _token(file: Path | None, no_auth: bool, bind: str) -> str | None:
    from modelhub_hpc.service.guard import new_token, read_token

    if not no_auth:
        return read_token(file) if file else new_token()
    if file:
        raise UsageError("--no-auth and --token-file exclude each other.")
    if not (_is_loopback(bind) or bind.startswith("unix:")):
        raise UsageError(f"--no-auth would let in everybody who reaches {bind}. It is for 127.0.0.1 only.")
    return None


def _is_loopback(bind: str) -> bool:
    from modelhub_hpc.service.settings import LOOPBACK

    return bind in LOOPBACK


def _settings(
    site: config.SiteConfig,
    jobs_site: config.SiteConfig,
    token: str | None,
    folder: Path,
    bind: str,
    given: dict[str, Any],
) -> ServiceSettings:
    from modelhub_hpc.service.settings import LOOPBACK, ServiceSettings

    names = {bind, config.node(), *given["host_names"]}
    return ServiceSettings(
        site=site,
        jobs_site=jobs_site,
        token=token,
        folder=folder,
        jobs=(given["jobs"] or Path("runs")).absolute(),
        roots=tuple(root.absolute() for root in given["roots"]),
        hosts=None if bind.startswith("unix:") else LOOPBACK | {name.lower() for name in names},
        origins=given["origins"],
        url_inputs=given["url_inputs"],
        sessions=given["sessions"],
        max_waiting=given["waiting"],
        max_upload_bytes=given["max_upload"] * 2**20,
        idle_s=given["idle_s"],
        receive_s=given["receive_s"],
        queue_s=given["queue_s"],
    )


def _tell(settings: ServiceSettings, bind: str, address: Any, models: list[str], voice: Voice) -> None:
    logging.getLogger("modelhub_hpc.service.access").setLevel(logging.INFO)
    if settings.token is None:
        voice.warn("NO TOKEN IS ASKED: every user of this machine can use these models and read what they answer.")
    if not (_is_loopback(bind) or bind.startswith("unix:")):
        voice.warn("THE CONNECTION IS NOT ENCRYPTED: who sees this network's traffic sees the token and the inputs.")
    facts = _facts(settings, bind, address, models)
    if voice.json:
        voice.answer(facts)
        return
    voice.say(f"Serving {one_line(', '.join(models)) or 'no model'}:\n\n  {one_line(facts['url'])}\n")
    if "socket" in facts:
        voice.say(f"on the socket of  curl --unix-socket {one_line(facts['socket'])} ...\n")
    else:
        voice.say(f"From another machine, first:\n\n  {facts['ssh']}\n")
    voice.say("Ctrl-C ends it.")


def _facts(settings: ServiceSettings, bind: str, address: Any, models: list[str]) -> dict[str, Any]:
    query = f"?token={settings.token}" if settings.token else ""
    facts = {"token": settings.token, "models": models}
    if bind.startswith("unix:"):
        return {"url": f"http://localhost/{query}", "socket": bind.removeprefix("unix:"), **facts}
    host, port = f"[{bind}]" if ":" in bind else bind, address[1]
    tunnel = f"ssh -L {port}:{host}:{port} {config.caller().user}@{config.node()}"
    return {"url": f"http://{host}:{port}/{query}", "port": port, "ssh": tunnel, **facts}
