"""Jobs and results as HTML. Whatever comes from files is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from . import render
from .desk import Desk
from .jobs import FAILED, RUNNING, STOPPED, WAITING, Job
from .prompt import tag
from .words import word

SHOWN = 12  # jobs in the list
# The host's own functions: its prompt box is told of the change as if somebody had typed.
SEND = (
    "const box=gradioApp().querySelector('#txt2img_prompt textarea');"
    "box.value=(box.value+' '+this.dataset.tag).trim();updateInput(box);switch_to_txt2img()"
)
STYLE = """<style>
#lora_graft_style {display: none}
#lora_graft_page {--block-info-text-color: var(--body-text-color); --block-label-text-color: var(--body-text-color);
  --block-title-text-color: var(--body-text-color)}
#lora_graft_page > div {max-width: 100%}
#lora_graft_page .generating {border-color: var(--border-color-primary, #888) !important; animation: none !important}
#lora_graft_page .pending {opacity: 1 !important}
#lora_graft_tabs > div > button, #lora_graft_tabs [role=tab] {color: var(--body-text-color)}
#lora_graft_page h2 {font-size: 1.2em; font-weight: 600; margin: 0}
.lora-graft-job {margin: 0 0 .6em; padding: .5em .7em; border: 1px solid var(--border-color-primary, #888);
  border-radius: 6px; overflow-wrap: anywhere}
.lora-graft-job progress {appearance: none; width: 100%; height: .7em; display: block; margin: .35em 0; border: 0;
  border-radius: 4px; overflow: hidden; background: #8885}
.lora-graft-job progress::-webkit-progress-bar {background: #8885}
.lora-graft-job progress::-webkit-progress-value {background: #2563eb}
.lora-graft-job progress::-moz-progress-bar {background: #2563eb}
.lora-graft-quiet {color: var(--body-text-color); font-size: .9em}
.lora-graft-state {font-weight: 600}
.lora-graft-alert {border-left: 4px solid #dc2626; padding: .3em .7em; white-space: pre-wrap; overflow-wrap: anywhere}
.lora-graft-said {border-left: 4px solid #16a34a; padding: .3em .7em}
.lora-graft-report {overflow-wrap: anywhere; line-height: 1.5}
.lora-graft-report h3, .lora-graft-report h4 {margin: .9em 0 .3em; font-weight: 600; color: var(--body-text-color)}
.lora-graft-report h3 {font-size: 1.15em}
.lora-graft-report p, .lora-graft-report ul {margin: .4em 0}
.lora-graft-report ul {list-style: disc; padding-left: 1.4em}
.lora-graft-report summary {cursor: pointer; padding: .3em 0}
.lora-graft-table {overflow-x: auto; max-height: 30em}
.lora-graft-table table {border-collapse: collapse; font-size: .88em; overflow-wrap: normal}
#lora_graft_page .lora-graft-table :is(th, td) {border: 1px solid var(--border-color-primary, #888); padding: .2em .5em;
  text-align: left}
#lora_graft_page .lora-graft-table td.lora-graft-number {text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap}
.lora-graft-picture {max-width: 100%; height: auto; background: #fff}
.lora-graft-tag {display: flex; flex-wrap: wrap; gap: .5em; align-items: center; margin: .5em 0}
.lora-graft-tag code, .lora-graft-report code {background: var(--background-fill-secondary, #8882); padding: .1em .3em;
  border-radius: 4px; overflow-wrap: anywhere}
.lora-graft-tag button {border: 1px solid var(--border-color-primary, #888); border-radius: 6px; padding: .2em .8em;
  background: var(--button-secondary-background-fill, #8883); color: var(--button-secondary-text-color, inherit)}
.lora-graft-tag button:focus-visible, .lora-graft-table:focus-visible, .lora-graft-report summary:focus-visible
  {outline: 2px solid #2563eb; outline-offset: 2px}
</style>"""


def listed(desk: Desk) -> str:
    """The latest jobs with their progress."""
    language, jobs = desk.host.language, desk.queue.jobs()[:SHOWN]
    if not jobs:
        return f'<p class="lora-graft-quiet">{escape(word(language, "nothing"))}</p>'
    return f'<div role="list">{"".join(_line(job, language) for job in jobs)}</div>'


def choices(desk: Desk) -> list[str]:
    """A name for each job, for a list to choose from; its number comes first."""
    return [named(job, desk.host.language) for job in desk.queue.jobs()]


def named(job: Job, language: str) -> str:
    return f"{job.number}: {word(language, job.kind)}, {job.title}"


def number_of(choice: str | None) -> int | None:
    """The job's number in one of :func:`choices`."""
    number = (choice or "").partition(":")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None


def signature(desk: Desk) -> str:
    """Changes when a job comes, goes, begins or ends; not with its progress."""
    return " ".join(f"{job.number}{job.state}{job.stopping}" for job in desk.queue.jobs())


def result(desk: Desk, job: Job | None) -> str:
    """All that a job brought."""
    if job is None:
        return ""
    language = desk.host.language
    parts = [f'<p class="lora-graft-quiet">{render.text(named(job, language))}: {escape(_state(job, language))}</p>']
    if job.error:
        kind, role = ("alert", "alert") if job.state == FAILED else ("said", "status")
        parts.append(f'<p class="lora-graft-{kind}" role="{role}">{render.text(job.error)}</p>')
    if job.result is None:
        return f'<div class="lora-graft-report">{"".join(parts)}</div>'
    if job.result.lora:
        parts.append(_tag(job.result.lora, language, sends=desk.host.sends))
    if job.result.picture:
        parts.append(render.picture(job.result.picture, job.result.alt))
    parts += [f"<p>{render.text(note)}</p>" for note in job.result.notes]
    parts.append(render.html(job.result.markdown))
    return f'<div class="lora-graft-report">{"".join(parts)}</div>'


def alert(message: str) -> str:
    return f'<p class="lora-graft-alert" role="alert">{render.text(message)}</p>'


def said(message: str) -> str:
    return f'<p class="lora-graft-said" role="status">{render.text(message)}</p>'


def _tag(lora: str, language: str, *, sends: bool) -> str:
    said = tag(lora)
    button = '<button type="button" data-tag="{}" onclick="{}">{}</button>'
    copy = "navigator.clipboard.writeText(this.dataset.tag)"
    buttons = button.format(render.text(said), copy, escape(word(language, "copy")))
    if sends:
        buttons += button.format(render.text(said), escape(SEND), escape(word(language, "send")))
    return (
        f'<div class="lora-graft-tag"><span>{escape(word(language, "new"))}:</span>'
        f"<code>{render.text(said)}</code>{buttons}</div>"
    )


def _line(job: Job, language: str) -> str:
    bar = ""
    if job.state == RUNNING:
        label = render.text(named(job, language))
        bar = f'<progress aria-label="{label}" max="{max(job.total, 1)}" value="{job.done}"></progress>'
        bar += f'<span class="lora-graft-quiet">{render.text(job.label[-60:])}</span>'
    return (
        f'<div class="lora-graft-job" role="listitem"><div>{render.text(named(job, language))}</div>'
        f'<div class="lora-graft-state">{escape(_state(job, language))}</div>{bar}</div>'
    )


def _state(job: Job, language: str) -> str:
    state = "stopping" if job.stopping and job.state in (WAITING, RUNNING) else job.state
    parts: Sequence[str] = [word(language, state)]
    if job.state == RUNNING:
        parts = [*parts, f"{job.done}/{job.total}"] if job.total else parts
        if job.left is not None and not job.stopping:
            parts = [*parts, word(language, "left").format(_time(job.left))]
    elif job.elapsed is not None and job.state != STOPPED:
        parts = [*parts, word(language, "took").format(_time(job.elapsed))]
    return ", ".join(parts)


def _time(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
