"use strict";
/* Elements, numbers as people read them, and line charts. Text only ever enters as text. */

const make = (space) => (tag, attributes = {}, ...children) => {
  const element = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
};
const html = make(null);
const svg = make("http://www.w3.org/2000/svg");

const NONE = "\u2013";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const when = (value, text) => (known(value) ? text(value) : NONE);
const places = (value, most) => String(Number(value.toPrecision(most)));
/** Seconds. */
const time = (value) => when(value, (secs) => {
  if (secs < 0.0000005) return "0 ms";
  if (secs < 0.0995) return `${places(secs * 1e3, 2)} ms`;
  if (secs < 0.9995) return `${Math.round(secs * 1e3)} ms`;
  return secs < 120 ? `${places(secs, 3)} s` : `${Math.round(secs / 60)} min`;
});
const share = (value) => when(value, (part) => `${places(part * 100, part < 0.0995 ? 2 : 3)} %`);
const factor = (value) => when(value, (times) => `\u00d7${times.toFixed(2)}`);
const count = (value) => when(value, (all) => (all < 10000 ? places(all, 4) : new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(all)));
const rate = (value) => when(value, (each) => `${each < 10 ? places(each, 2) : Math.round(each)}/s`);

/** Between 2 and 6 round values from `low` to `high`. */
function ticks(low, high, isLog) {
  if (isLog) {
    const all = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const step of [1, 2, 5]) all.push(step * 10 ** power);
    }
    const inside = all.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    return inside.length > 6 ? inside.filter((value) => /^1/.test(value.toExponential())) : inside;
  }
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((by) => by * power).find((by) => by >= rough * 0.999);
  const all = [];
  for (let index = Math.ceil(low / step); index * step <= high * 1.001; index += 1) all.push(index * step);
  return all;
}

/** The range that a chart covers. */
function extent(values, { isLog, low, high }) {
  let [least, most] = [Math.min(...values), Math.max(...values)];
  if (isLog) {
    [least, most] = [least / 1.15, most * 1.15];
    while (most / least < 4) [least, most] = [least / 1.1, most * 1.1];
    return [least, most];
  }
  least = low ?? least;
  most = Math.max(high ?? least + (most - least) * 1.1, most);
  return most > least ? [least, most] : [least, least + 1];
}

/**
 * A box with a line for each of `series` ({name, values}) over `at` (seconds). Lines differ in dashes as well as in colour.
 * The legend tells the newest values, or those under the pointer. `options`: text, isLog, low, high, aim, note.
 */
class Chart {
  constructor(title, options) {
    this.options = options;
    this.legend = html("ul", { class: "legend" });
    this.drawing = html("div");
    this.element = html("div", { class: "chart" }, html("h3", {}, title), this.legend, this.drawing);
    this.title = title;
    this.pointer = null;
    this.drawing.addEventListener("pointermove", (event) => { this.pointer = event.offsetX; this.draw(); });
    this.drawing.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
  }

  show(at, series) {
    [this.at, this.series] = [at, series];
    this.draw();
  }

  draw() {
    const { at, series, options } = this;
    const [width, height, left, bottom] = [Math.max(this.drawing.clientWidth, 200), 150, 52, 18];
    const values = series.flatMap((line) => line.values).filter(known);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": this.spoken() });
    if (values.length === 0) {
      root.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, options.note ?? "nothing yet"));
    } else {
      const [low, high] = extent(values, options);
      const scale = options.isLog ? Math.log : (value) => value;
      const y = (value) => 6 + (height - bottom - 6) * (1 - (scale(value) - scale(low)) / (scale(high) - scale(low)));
      const [first, last] = [at[0], Math.max(at[at.length - 1], at[0] + 1)];
      const x = (value) => left + (width - left - 8) * ((value - first) / (last - first));
      this.axes(root, { low, high, x, y, first, last, width, height, left });
      for (const [index, line] of series.entries()) root.append(...this.line(line.values, index, x, y));
      this.cursor(root, x, height - bottom);
    }
    this.drawing.replaceChildren(root);
    const index = this.index ?? at.length - 1;
    this.legend.replaceChildren(...series.map((line, number) => html("li", {},
      svg("svg", { viewBox: "0 0 24 10", "aria-hidden": "true" }, svg("path", { d: "M0 5H24", class: `line s${number}` })),
      html("span", { class: "muted" }, line.name), html("span", {}, options.text(line.values[index])))),
      ...(this.index === null || this.index === undefined ? [] : [html("li", { class: "muted" }, `${time(at[at.length - 1] - at[index])} ago`)]));
  }

  axes(root, { low, high, x, y, first, last, width, height, left }) {
    const { options } = this;
    for (const value of ticks(low, high, options.isLog)) {
      root.append(svg("path", { d: `M${left} ${y(value)}H${width - 8}`, class: "grid" }),
        svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, options.text(value)));
    }
    if (known(options.aim)) root.append(svg("path", { d: `M${left} ${y(options.aim)}H${width - 8}`, class: "aim" }));
    const span = last - first;
    const step = [10, 30, 60, 300].find((secs) => span / secs <= 5) ?? 600;
    for (let ago = 0; ago <= span; ago += step) {
      const text = ago === 0 ? "now" : ago < 60 ? `\u2212${ago} s` : `\u2212${places(ago / 60, 2)} min`;
      const place = x(last - ago);
      if (place < left + 14 && ago > 0) continue;
      root.append(svg("text", { x: place, y: height - 4, "text-anchor": ago === 0 ? "end" : "middle" }, text));
    }
  }

  /** Pieces between gaps; a value between two gaps is a dot. */
  line(values, index, x, y) {
    const pieces = [];
    let piece = [];
    values.forEach((value, place) => {
      if (known(value)) piece.push(`${x(this.at[place]).toFixed(1)} ${y(value).toFixed(1)}`);
      if ((!known(value) || place === values.length - 1) && piece.length > 0) { pieces.push(piece); piece = []; }
    });
    return pieces.map((points) => (points.length > 1
      ? svg("path", { d: `M${points.join("L")}`, class: `line s${index}` })
      : svg("path", { d: `M${points[0]}h.1`, class: `line s${index}`, "stroke-linecap": "round", "stroke-width": 4 })));
  }

  cursor(root, x, bottom) {
    this.index = null;
    if (this.pointer === null) return;
    const distance = (index) => Math.abs(x(this.at[index]) - this.pointer);
    this.index = this.at.reduce((best, _, index) => (distance(index) < distance(best) ? index : best), 0);
    const place = x(this.at[this.index]);
    root.append(svg("path", { d: `M${place} 4V${bottom}`, class: "cursor" }));
  }

  spoken() {
    const newest = (line) => `${line.name} ${this.options.text(line.values[line.values.length - 1])}`;
    return `${this.title}, now: ${this.series.map(newest).join(", ")}`;
  }
}
