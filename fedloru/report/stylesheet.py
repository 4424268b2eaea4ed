"""The CSS of a page: a light theme with a readable line width, one column on phones, and no background in print."""

CSS = """
:root { --ink: #1f2933; --muted: #5f6b7a; --line: #e6e9ed; --paper: #fff; --ground: #f4f6f8; --blue: #0072b2; }
* { box-sizing: border-box; }
html { color-scheme: light; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header p { margin: 0; color: var(--muted); }
header .method { color: var(--blue); font-weight: 600; letter-spacing: .02em; }
h1 { margin: 0; font-size: 2rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.25rem; }
h3 { margin: 0 0 .5rem; font-size: 1rem; }
header .note { margin-top: 1rem; padding: .6rem .9rem; background: #fff7e0; border-left: 4px solid #e69f00;
  color: var(--ink); }
.tiles, .grid { display: grid; gap: 1rem; }
.tiles { grid-template-columns: repeat(4, minmax(0, 1fr)); margin: 1.5rem 0 0; }
.tiles > div, .card { background: var(--paper); border: 1px solid var(--line); border-radius: .5rem; }
.tiles > div { padding: .8rem 1rem; display: flex; flex-direction: column; }
.tiles dt { color: var(--muted); font-size: .85rem; }
.tiles dd { margin: 0; }
.tiles .value { font-size: 1.5rem; font-weight: 600; line-height: 1.35; font-variant-numeric: tabular-nums; }
.tiles .aside { color: var(--muted); font-size: .85rem; }
.grid { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.column { display: flex; flex-direction: column; gap: 1rem; min-width: 0; }
.column > :last-child { flex: 1; }
.wide { grid-column: 1 / -1; }
.card { margin: 0; padding: 1rem; min-width: 0; }
.card p { margin: .75rem 0 0; color: var(--muted); font-size: .85rem; }
.card > h3 + p { margin: -.35rem 0 .75rem; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem 0 .35rem .5rem; border-bottom: 1px solid var(--line); text-align: right; font-weight: 400; }
thead th { color: var(--muted); font-size: .85rem; vertical-align: bottom; }
th:first-child { padding-left: 0; text-align: left; }
tr:last-child > * { border-bottom: 0; }
tr.total > * { font-weight: 600; }
td { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.scroll th, .scroll td { white-space: nowrap; overflow-wrap: normal; padding-left: 1rem; }
.scroll th:first-child { padding-left: 0; }
.scroll thead th { white-space: normal; min-width: 4.5rem; }
.scroll tbody th { white-space: normal; min-width: 8rem; }
.prose th { white-space: nowrap; vertical-align: top; color: var(--muted); padding-right: 1rem; }
.prose td { width: 100%; text-align: left; white-space: pre-wrap; }
.texts th, .texts td { text-align: left; vertical-align: top; padding-left: 1rem; }
.texts th:first-child { padding-left: 0; }
.texts td { min-width: 7rem; }
.texts td:last-child { width: 100%; }
.numbers td { white-space: nowrap; }
.bar { display: grid; grid-template-columns: 1fr auto; column-gap: 1rem; margin-top: .6rem; align-items: end;
  font-variant-numeric: tabular-nums; }
.bar div { grid-column: 1 / -1; height: .8rem; min-width: 2px; background: #9aa5b1; border-radius: 2px; }
.bar:first-of-type div { background: var(--blue); }
details summary { cursor: pointer; font-weight: 600; }
pre { margin: .75rem 0 0; overflow-x: auto; font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
@media (max-width: 44rem) {
  main { padding: 1.25rem .75rem 3rem; }
  h1 { font-size: 1.5rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; }
  .tiles .value { font-size: 1.25rem; }
  .grid { grid-template-columns: minmax(0, 1fr); gap: .75rem; }
  .card { padding: .75rem; }
}
@media print {
  body { background: none; }
  main { max-width: none; padding: 0; }
  .card, .tiles > div { break-inside: avoid; }
}
"""
