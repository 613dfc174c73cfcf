"""The looks of the view of a job, group, service or timeline: one style sheet, which touches nothing outside of them.

The colours follow the theme of the notebook where it says which it is (JupyterLab and Notebook 7, VS Code, Colab), and the
user's preference elsewhere. Text has a contrast of at least 4.5 to 1 in both.
"""

from __future__ import annotations

CLASS = "socaity-view"

_LIGHT = (
    "--t:#151a21;--m:#596273;--b:var(--jp-layout-color0,#fff);--s:#596a801a;--l:#596a8040;--a:#3b5bdb;--as:#3b5bdb24;"
    "--g:#0c7048;--gs:#0c704829;--w:#8a5200;--r:#b3212b;--rs:#b3212b1c;--q:#8b94a3;color-scheme:light"
)
_DARK = (
    "--t:#e7ebf1;--m:#a3aebd;--b:var(--jp-layout-color0,#151a21);--s:#a0b4d026;--l:#a0b4d040;--a:#8ea6ff;--as:#8ea6ff2e;"
    "--g:#5fd19a;--gs:#5fd19a2e;--w:#f2bd62;--r:#ff9a9a;--rs:#ff8f8f24;--q:#768294;color-scheme:dark"
)

_RULES = """
.V{font:400 13px/1.45 var(--jp-ui-font-family,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif);
font-variant-numeric:tabular-nums;color:var(--t);background:var(--b);border:1px solid var(--l);border-radius:10px;
padding:10px 14px;margin:2px 0;max-width:1100px;box-sizing:border-box;container-type:inline-size;text-align:left}
.V *{box-sizing:border-box}
.V header{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 10px;background:none;padding:0;margin:0}
.V b{font-weight:650;overflow-wrap:anywhere}
.V.V code,.V.V pre{font:12px/1.45 ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;background:none;color:inherit;
padding:0;margin:0;border:0}
.V pre{white-space:pre-wrap;overflow-wrap:anywhere;max-height:18em;overflow:auto}
.V .m{color:var(--m);overflow-wrap:anywhere}
.V .end{margin-left:auto;color:var(--m);white-space:nowrap}
.V .pill{border-radius:99px;padding:0 9px;font-size:12px;font-weight:600;background:var(--s);color:var(--m);white-space:nowrap}
.V .pill[data-state=running]{background:var(--as);color:var(--a)}
.V .pill[data-state=succeeded]{background:var(--gs);color:var(--g)}
.V .pill[data-state=failed],.V .pill[data-state=lost]{background:var(--rs);color:var(--r)}
.V .pill[data-state=cancelled]{color:var(--w)}
.V .bar{display:flex;height:6px;border-radius:3px;background:var(--s);overflow:hidden;margin:6px 0 2px}
.V .bar i{display:block;height:100%;background:var(--a);flex:none}
.V .bar i[data-state=succeeded]{background:var(--g)}
.V .bar i[data-state=failed],.V .bar i[data-state=lost]{background:var(--r)}
.V .bar i[data-state=cancelled],.V .bar i[data-state="not run"]{background:var(--q)}
.V .bar.unknown i{width:100%;background:repeating-linear-gradient(115deg,var(--a) 0 10px,var(--as) 10px 20px)}
.V .why{margin:8px 0 2px;padding:7px 10px;border-radius:7px;background:var(--rs);overflow-wrap:anywhere;white-space:pre-line}
.V .why.soft{background:var(--s)}
.V .scroll{overflow-x:auto;margin:10px -14px 2px;padding:0 14px}
.V svg.graph{display:block;max-width:100%;height:auto;overflow:visible}
.V svg.down{display:none}
.V .node rect{fill:var(--b);stroke:var(--l);stroke-width:1.25}
.V .node text{font-size:12px;fill:var(--t)}
.V .node .name{font-weight:600}
.V .node .state{font-size:11px;fill:var(--m)}
.V .node rect.done{fill:var(--a);stroke:none}
.V .node[data-state=running] rect:first-of-type{stroke:var(--a);fill:var(--as)}
.V .node[data-state=running] .state{fill:var(--a)}
.V .node[data-state=succeeded] .state{fill:var(--g)}
.V .node[data-state=failed] rect,.V .node[data-state=lost] rect{stroke:var(--r);fill:var(--rs)}
.V .node[data-state=failed] .state,.V .node[data-state=lost] .state{fill:var(--r)}
.V .node[data-state=cancelled] .state{fill:var(--w)}
.V .node[data-state="not run"] rect,.V .node[data-state=waiting] rect{stroke-dasharray:4 3}
.V .edge{fill:none;stroke:var(--q);stroke-width:1.25;stroke-linejoin:round;stroke-linecap:round}
.V.V ol,.V.V ul,.V.V dl{list-style:none;margin:0;padding:0}
.V.V .steps{margin-top:8px}
.V .steps>li{display:grid;grid-template-columns:minmax(0,13em) minmax(0,1fr) auto;gap:0 12px;align-items:baseline;
padding:5px 0;margin:0;border-top:1px solid var(--l)}
.V .times>li{grid-template-columns:minmax(0,13em) minmax(0,1fr) 4.5em;align-items:center}
.V .steps .end{text-align:right}
.V .steps .bar{margin:3px 0}
.V .steps>li>div{min-width:0}
.V .steps .wide{grid-column:1/-1}
.V .result{margin-top:8px;padding-top:8px;border-top:1px solid var(--l)}
.V img{max-width:100%;height:auto;border-radius:6px;display:block;margin:2px 0;background:var(--s);object-fit:contain}
.V .grid{display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start}
.V .grid>li{min-width:0;max-width:100%;margin:0}
.V .text{overflow-wrap:anywhere}
.V .long{white-space:pre-wrap}
.V .pairs{display:grid;grid-template-columns:minmax(3em,max-content) minmax(0,1fr);gap:2px 12px;align-items:start}
.V .pairs>dt,.V .pairs>dd{float:none;width:auto;margin:0;padding:0;min-width:0}
.V .pairs>dt{color:var(--m);font-weight:400;max-width:16em;overflow-wrap:anywhere}
.V figure{margin:2px 0;max-width:420px}
.V figcaption,.V caption{color:var(--m);font-size:12px;text-align:left;caption-side:bottom;padding:2px 0}
.V .wave{display:block;width:100%;height:40px}
.V .wave path{stroke:var(--a);stroke-width:2;fill:none}
.V audio{display:block;width:100%;height:36px;margin-top:4px}
.V .table{overflow-x:auto;max-width:100%}
.V.V table{border-collapse:collapse;font-size:12px;margin:0;border:0;color:inherit}
.V.V.V th,.V.V.V td{border:0;border-bottom:1px solid var(--l);padding:2px 10px 2px 0;text-align:left;white-space:nowrap;
background:none;line-height:inherit;vertical-align:top;max-width:28em;overflow:hidden;text-overflow:ellipsis}
.V.V.V tr{background:none;line-height:inherit}
.V.V th{font-weight:600}
.V .endpoints{table-layout:fixed;width:100%}
.V.V.V .endpoints tr:last-child td{border:0}
.V.V.V .endpoints th,.V.V.V .endpoints td{white-space:normal;overflow-wrap:anywhere;max-width:none}
.V details{margin-top:6px}
.V summary{cursor:pointer;color:var(--m)}
.V .legend{display:flex;flex-wrap:wrap;gap:0 14px;color:var(--m)}
.V .legend i{display:inline-block;width:9px;height:9px;border-radius:2px;margin-right:5px}
.V svg.time{display:block;width:100%;height:16px;background:var(--s);border-radius:3px}
.V [data-phase=waiting]{fill:var(--q);background:var(--q);opacity:.45}
.V [data-phase=client]{fill:#8b5cf6;background:#8b5cf6}
.V [data-phase=network]{fill:#0891b2;background:#0891b2}
.V [data-phase=queued]{fill:#d97706;background:#d97706}
.V [data-phase=batched]{fill:#ca8a9a;background:#ca8a9a}
.V [data-phase=computed]{fill:#16935f;background:#16935f}
.V [data-phase=encoded]{fill:#7c8b2e;background:#7c8b2e}
.V [data-phase=unknown]{fill:#5b74e0;background:#5b74e0}
@container (max-width:560px){.V .steps>li{grid-template-columns:minmax(0,1fr) auto}.V .steps>li>.what{grid-column:1/-1;grid-row:2}
.V svg.across{display:none}.V svg.down{display:block;margin:0 auto}.V .pairs{grid-template-columns:minmax(0,1fr)}
.V .pairs>dt{max-width:none}}
"""


def _sheet() -> str:
    chosen = f".{CLASS}"
    dark = ("[data-jp-theme-light=false]", ".vscode-dark", ".vscode-high-contrast", "html[theme=dark]")
    light = ("[data-jp-theme-light=true]", ".vscode-light", "html[theme=light]")
    rules = _RULES.replace("\n", "").replace(".V", chosen)
    return (
        f"{chosen}{{{_LIGHT}}}@media(prefers-color-scheme:dark){{{chosen}{{{_DARK}}}}}"
        f"{','.join(f'{where} {chosen}' for where in light)}{{{_LIGHT}}}"
        f"{','.join(f'{where} {chosen}' for where in dark)}{{{_DARK}}}{rules}"
    )


STYLE = f"<style>{_sheet()}</style>"
