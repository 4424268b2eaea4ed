"use strict";
// What a page does in a browser: the theme, sortable tables, explanations of terms, and figures that can be smoothed,
// drawn on logarithmic axes and saved. Texts and tables are complete without it. It is loaded in the head, so that the
// theme is set before anything is painted.

// ---- The theme: that of the system, unless the reader has chosen the other one

const THEME = "fedloru-theme";
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const system = () => (prefersDark.matches ? "dark" : "light");
let chosen = null;
try { chosen = localStorage.getItem(THEME); } catch { /* storage is blocked: the choice lasts as long as the page */ }
const theme = () => (["light", "dark"].includes(chosen) ? chosen : system());
const listeners = [];

function showTheme() {
  document.documentElement.dataset.theme = theme();
  listeners.forEach(listener => listener());
}

function toggleTheme() {
  const other = theme() === "dark" ? "light" : "dark";
  chosen = other === system() ? null : other; // back to the system's theme, which may change
  try {
    if (chosen) localStorage.setItem(THEME, chosen);
    else localStorage.removeItem(THEME);
  } catch { /* see above */ }
  showTheme();
}

prefersDark.addEventListener("change", showTheme);
showTheme();

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- Tables: a click on a heading sorts by its column, the next one reverses, a third restores the order

const UNITS = {kB: 1e3, MB: 1e6, GB: 1e9, ms: 1e-3, min: 60, h: 3600};
const NUMERIC = /^[-+−]?[\d,]*\.?\d+([eE][-+]?\d+)?( ?(%|kB|MB|GB|ms|s|min|h|±|×|\().*|\*)?$/;
const PARTS = /([-+−]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?) ?(kB|MB|GB|ms|s|min|h)?(?!\w)/g;
const collator = new Intl.Collator("en", {numeric: true});
const text = cell => cell.textContent.trim();
const isMissing = value => ["", "–", "not reached", "not recorded"].includes(value);

/** Returns the size of a text such as "1,234", "49.3 MB", "3 min 05 s" or "96.8 ± 0.3". */
function quantity(value) {
  const parts = [...value.matchAll(PARTS)]
    .map(([, digits, unit]) => ({amount: Number(digits.replaceAll(",", "").replace("−", "-")), unit}));
  const measured = parts.filter(part => part.unit);
  const used = measured.length ? measured : parts.slice(0, 1);
  return used.reduce((sum, {amount, unit}) => sum + amount * (UNITS[unit] ?? 1), 0);
}

function ordered(rows, column, direction) {
  const value = row => text(row.cells[column]);
  const known = rows.filter(row => !isMissing(value(row)));
  const numeric = known.every(row => NUMERIC.test(value(row)));
  const compare = numeric
    ? (a, b) => quantity(value(a)) - quantity(value(b))
    : (a, b) => collator.compare(value(a), value(b));
  known.sort((a, b) => direction * compare(a, b));
  return [...known, ...rows.filter(row => isMissing(value(row)))];
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const total = body.querySelector("tr.total");
  const rows = [...body.rows].filter(row => row !== total);
  if (!table.tHead || rows.length < 2) return;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!text(head) && column > 0) return;
    const meaning = head.querySelector("abbr")?.title;
    const button = element("button", {type: "button"}, ...(text(head) ? [text(head)] : []));
    if (!text(head)) button.ariaLabel = "row";
    if (meaning) button.dataset.meaning = meaning;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const next = {ascending: "descending", descending: null}[head.getAttribute("aria-sort")];
      const order = next === undefined ? "ascending" : next;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      if (order) head.setAttribute("aria-sort", order);
      body.append(...(order ? ordered(rows, column, order === "ascending" ? 1 : -1) : rows), ...(total ? [total] : []));
    });
  });
}

// ---- Terms: their explanations appear on hover, focus and touch

function explainTerms() {
  const tip = element("div", {id: "explanation", hidden: true});
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  document.querySelectorAll("abbr[title]").forEach(term => {
    term.dataset.meaning = term.title;
    term.removeAttribute("title");
    term.tabIndex = 0;
  });
  document.querySelectorAll("[data-meaning]").forEach(term => {
    term.setAttribute("aria-describedby", tip.id);
    const show = () => {
      tip.textContent = term.dataset.meaning;
      tip.hidden = false;
      const [at, size] = [term.getBoundingClientRect(), tip.getBoundingClientRect()];
      tip.style.left = `${Math.max(12, Math.min(at.left, innerWidth - size.width - 12))}px`;
      tip.style.top = `${at.bottom + size.height + 8 < innerHeight ? at.bottom + 6 : at.top - size.height - 6}px`;
    };
    const hide = () => { tip.hidden = true; };
    for (const event of ["pointerenter", "focus"]) term.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) term.addEventListener(event, hide);
    term.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  });
  addEventListener("scroll", () => { tip.hidden = true; }, {passive: true});
}

// ---- Figures

const WINDOWS = [1, 3, 5, 9, 15, 25, 51, 101];
const CONFIG = {displayModeBar: false, responsive: true};
const COLORED = /color$|^colorscale$|^colorway$/i;

/** Returns a figure with every color replaced by the one for dark mode. */
function recolored(value, colors, colored = false) {
  if (Array.isArray(value)) return value.map(item => recolored(item, colors, colored));
  if (typeof value === "string") return colored ? colors[value] ?? value : value;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, recolored(item, colors, colored || COLORED.test(key))]));
}

/** Returns whether a trace is a series over a number, such as rounds, which a running mean makes easier to read. */
function isCurve(trace) {
  return trace.type === "scatter" && trace.mode?.startsWith("lines") && Array.isArray(trace.y) && !trace.fill
    && !trace.stackgroup && !trace.error_y && trace.hoverinfo !== "skip" && (trace.line?.shape ?? "linear") === "linear"
    && trace.y.length >= 5 && trace.x.every(Number.isFinite);
}

/** Returns the means of up to `width` values around each one; fewer at the ends, so that they keep their place. */
function runningMean(values, width) {
  return values.map((_, place) => {
    const reach = Math.min((width - 1) / 2, place, values.length - 1 - place);
    const near = values.slice(place - reach, place + reach + 1).filter(Number.isFinite);
    return near.length ? near.reduce((sum, value) => sum + value, 0) / near.length : null;
  });
}

/** Returns a curve of means over the pale curve of the values, which shows both on hover. */
function smoothed(trace, index, width) {
  if (width === 1 || !isCurve(trace)) return [trace];
  const legendgroup = trace.legendgroup ?? `curve ${index}`;
  const means = runningMean(trace.y, width);
  const hovertemplate = trace.hovertemplate?.replace(/%\{y(:[^}]*)?\}/, "$& (smoothed: %{text$1})");
  const values = {...trace, legendgroup, hovertemplate, text: means, opacity: 0.3, showlegend: false};
  return [values, {...trace, legendgroup, y: means, mode: "lines", hovertemplate: null, hoverinfo: "skip"}];
}

/** Returns the names of the x or y axes that can be logarithmic: all values are positive, but for x = 0 (round 0). */
function logAxes({data, layout}, letter) {
  const names = Object.keys(layout).filter(key => key.startsWith(`${letter}axis`));
  return names.filter(name => {
    const id = name.replace("axis", "");
    const traces = data.filter(trace => (trace[`${letter}axis`] ?? letter) === id);
    const values = traces.flatMap(trace => trace[letter] ?? [null])
      .filter(value => value !== null && (letter === "y" || value !== 0));
    const fromZero = trace => trace.stackgroup || trace.fill?.startsWith("tozero");
    const based = traces.some(trace => trace.type !== "scatter" || fromZero(trace));
    return layout[name].visible !== false && !layout[name].range && !based && values.length > 1
      && values.every(value => Number.isFinite(value) && value > 0) && Math.max(...values) >= 2 * Math.min(...values);
  });
}

/** Returns a layout in which values at the same place on the x-axis are listed under its name, such as "round 8". */
function withHoverTitles(layout) {
  const names = Object.keys(layout).filter(name => name.startsWith("xaxis"));
  const title = names.map(name => layout[name].title?.text).find(Boolean); // of subplots, only the last one has a title
  const titled = names.map(name => [name, {...layout[name], unifiedhovertitle: {text: `${title} %{x}`}}]);
  return title ? {...layout, ...Object.fromEntries(titled)} : layout;
}

class Figure {
  constructor(holder, settings) {
    this.settings = settings;
    this.name = holder.id;
    this.spec = JSON.parse(holder.querySelector("script").textContent);
    this.scales = {};
    this.hasCurves = this.spec.data.some(isCurve);
    this.plot = element("div", {className: "plot"});
    this.plot.style.height = `${this.spec.layout.height}px`;
    this.plot.role = "img";
    this.plot.ariaLabel = holder.closest(".card")?.querySelector("h3")?.textContent ?? this.name;
    holder.replaceChildren(this.tools(), this.plot);
  }

  tools() {
    const buttons = ["x", "y"].map(letter => [letter, logAxes(this.spec, letter)]).filter(([, names]) => names.length)
      .map(([letter, names]) => this.scaleButton(letter, names));
    const save = format => {
      const button = element("button", {type: "button", title: `Save this figure as ${format.toUpperCase()}`});
      button.append(format.toUpperCase());
      button.addEventListener("click", () => this.save(format));
      return button;
    };
    return element("div", {className: "tools"}, ...buttons, save("svg"), save("png"));
  }

  scaleButton(letter, names) {
    const isLog = name => (this.scales[name] ?? this.spec.layout[name].type) === "log";
    const button = element("button", {type: "button", title: `Logarithmic ${letter}-axis`}, `log ${letter}`);
    button.setAttribute("aria-pressed", isLog(names[0]));
    button.addEventListener("click", () => {
      const type = isLog(names[0]) ? "linear" : "log";
      names.forEach(name => { this.scales[name] = type; });
      button.setAttribute("aria-pressed", type === "log");
      this.draw();
    });
    return button;
  }

  draw() {
    const width = WINDOWS[this.settings.smoothing];
    let data = this.spec.data.flatMap((trace, index) => smoothed(trace, index, width));
    let layout = withHoverTitles(this.spec.layout);
    for (const [name, type] of Object.entries(this.scales)) {
      layout[name] = {...layout[name], type};
      if (type === "log") layout[name] = {tickformat: "~g", ...layout[name], dtick: "D2"};  // 0.5, not 5
    }
    if (this.settings.printing) layout = {...layout, width: this.plot.clientWidth};
    if (this.settings.theme === "dark") ({data, layout} = recolored({data, layout}, this.settings.dark));
    return Plotly.react(this.plot, structuredClone(data), structuredClone(layout), CONFIG);
  }

  save(format) {
    const {width, height} = this.plot.getBoundingClientRect();
    const page = document.querySelector("h1").textContent;
    const filename = `${page}-${this.name}`.replaceAll(/[^\w.-]+/g, "-");
    return Plotly.downloadImage(this.plot, {format, filename, width, height, scale: format === "png" ? 3 : 1});
  }
}

function drawFigures() {
  const dark = JSON.parse(document.querySelector(".dark-colors").textContent);
  const settings = {theme: theme(), smoothing: 0, dark};
  const figures = [...document.querySelectorAll(".figure")].map(holder => new Figure(holder, settings));
  const drawAll = () => figures.forEach(figure => figure.draw());
  drawAll();
  listeners.push(() => { settings.theme = theme(); drawAll(); });
  printable(figures, settings);
  const curves = figures.filter(figure => figure.hasCurves);
  return {curves, smooth: step => { settings.smoothing = step; curves.forEach(figure => figure.draw()); }};
}

/** Prints in the light theme, with figures that fit a sheet of paper (A4 or Letter). */
function printable(figures, settings) {
  const prepare = printing => () => {
    document.body.classList.toggle("printing", printing);
    Object.assign(settings, {printing, theme: printing ? "light" : theme()});
    figures.forEach(figure => figure.draw());
  };
  addEventListener("beforeprint", prepare(true));
  addEventListener("afterprint", prepare(false));
}

// ---- The controls above the page

function smoothingControl({curves, smooth}) {
  const longest = Math.max(...curves.flatMap(figure => figure.spec.data.filter(isCurve).map(trace => trace.y.length)));
  const last = WINDOWS.findLastIndex(width => width <= longest);
  const shown = element("output", {}, "off");
  const slider = element("input", {type: "range", id: "smoothing", min: 0, max: last, value: 0});
  slider.addEventListener("input", () => {
    const step = Number(slider.value);
    shown.textContent = step ? `mean of ${WINDOWS[step]}` : "off";
    slider.setAttribute("aria-valuetext", `${shown.textContent}${step ? " values" : ""}`);
    smooth(step);
  });
  return element("label", {}, "Smoothing", slider, shown);
}

function themeControl() {
  const button = element("button", {type: "button", id: "theme"});
  const label = () => { button.textContent = theme() === "dark" ? "Light mode" : "Dark mode"; };
  button.addEventListener("click", toggleTheme);
  listeners.push(label);
  label();
  return button;
}

/** Says why there are no figures if the file with plotly, which pages share, is missing. */
function noteMissing() {
  const missing = document.querySelector("script[data-missing]")?.dataset.missing;
  if (missing) document.querySelector("header").append(element("p", {className: "note"}, missing));
}

addEventListener("DOMContentLoaded", () => {
  const controls = element("div", {className: "controls"}, themeControl());
  document.body.prepend(controls);
  document.querySelectorAll("table").forEach(makeSortable);
  explainTerms();
  if (typeof Plotly === "undefined") return noteMissing();
  const figures = drawFigures();
  if (figures.curves.length) controls.prepend(smoothingControl(figures));
});
