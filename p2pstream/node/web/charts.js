// Small drawings in SVG, each with words for those who cannot see it.

const NS = "http://www.w3.org/2000/svg";
const SPAN_S = 60;
const WIDTH = 160;
const HEIGHT = 36;
const PAD = 3;

export function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

// The last minute of one number.
export class Sparkline {
  #points = []; // [seconds, value], oldest first.
  #label;
  #show;
  #frame;
  #area;
  #line;
  #tip;

  // show: turns a value into words. floor: the least value that fills the height.
  constructor(frame, { label, show, floor }) {
    this.#frame = frame;
    this.#label = label;
    this.#show = show;
    this.floor = floor;
    frame.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    frame.setAttribute("preserveAspectRatio", "none");
    this.#area = svg("path", { class: "area" }, frame);
    this.#line = svg("path", { class: "line" }, frame);
    this.#tip = svg("path", { class: "tip" }, frame);
  }

  add(second, value) {
    if (!Number.isFinite(value)) return;
    this.#points.push([second, value]);
    while (this.#points[0][0] < second - SPAN_S) this.#points.shift();
    this.#draw(second);
  }

  #draw(now) {
    const values = this.#points.map(([, value]) => value);
    const low = Math.min(...values);
    const high = Math.max(...values);
    const top = Math.max(high, this.floor) * 1.1;
    const x = (second) => WIDTH - PAD - ((now - second) / SPAN_S) * (WIDTH - PAD);
    const y = (value) => HEIGHT - PAD - (value / top) * (HEIGHT - 2 * PAD);
    const spots = this.#points.map(([s, v]) => `${x(s).toFixed(1)} ${y(v).toFixed(1)}`);
    const [first] = this.#points;
    this.#line.setAttribute("d", `M${spots.join("L")}`);
    this.#area.setAttribute("d", `M${x(first[0]).toFixed(1)} ${HEIGHT}L${spots.join("L")}L${x(now)} ${HEIGHT}Z`);
    this.#tip.setAttribute("d", `M${spots.at(-1)}h0`);
    const words = `now ${this.#show(values.at(-1))}, between ${this.#show(low)} and ${this.#show(high)}`;
    this.#frame.setAttribute("aria-label", `${this.#label} over the last minute: ${words}.`);
  }
}
