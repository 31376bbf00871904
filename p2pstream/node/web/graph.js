// Who feeds whom: a layered picture, the origin at the top. Places follow from the links alone, a
// newcomer comes in beside its parent, and everybody glides to a new place.

import { svg } from "./charts.js";

const NODES_MAX = 48; // More would be dust. The words below the picture say how many are left out.
const LABELS_MAX = 26;
const ROW = 104; // Pixels between layers.
const MARGIN = 40;
const SWEEPS = 4; // Of sorting by barycentre; more did not remove crossings.
const DEPTH_ROUNDS = 6;
const GLIDE = 0.14; // Of the way that is left, each frame.
const KBPS_WIDE = 1000; // A link this fast is drawn as wide as any.
const RADIUS = { origin: 17, seed: 14, viewer: 10 };

export class MeshView {
  #frame;
  #text;
  #words;
  #links;
  #dots;
  #nodes = new Map(); // id -> {x, y, toX, toY, role, me, group, order}
  #edges = new Map(); // "from>to" -> {from, to, path, flow, kbps}
  #moving = false;
  #state = null;

  constructor(frame, text, words) {
    this.#frame = frame;
    for (const role of Object.keys(RADIUS)) arrow(frame, role);
    this.#text = text;
    this.#words = words;
    this.#links = svg("g", { class: "links", "aria-hidden": "true" }, frame);
    this.#dots = svg("g", { class: "nodes", "aria-hidden": "true" }, frame);
    new ResizeObserver(() => this.#state && this.#layout()).observe(frame.parentElement);
    // What nobody sees need not move.
    new IntersectionObserver(([entry]) => frame.parentElement.classList.toggle("away", !entry.isIntersecting)).observe(frame);
  }

  show(state) {
    const graph = nearest(state.graph ?? { nodes: [], links: [] });
    this.#state = { graph, partners: state.partners ?? [] };
    this.#keepNodes(graph.nodes);
    this.#keepLinks(graph.links);
    this.#layout();
    this.#say(graph, state.graph?.nodes.length ?? 0);
  }

  // Nodes and links that came and went.

  #keepNodes(nodes) {
    const here = new Set(nodes.map((node) => node.id));
    for (const [id, node] of this.#nodes) if (!here.has(id)) this.#leave(id, node);
    for (const { id, role, me } of nodes) {
      const node = this.#nodes.get(id) ?? this.#arrive(id);
      node.role = role in RADIUS ? role : "viewer";
      node.me = Boolean(me);
      node.group.setAttribute("class", `node ${node.role}${node.me ? " me" : ""}`);
      const radius = RADIUS[node.role] + (node.me ? 4 : 0);
      node.dot.setAttribute("r", radius);
      node.halo.setAttribute("r", radius + 7);
      node.label.setAttribute("y", radius + 15);
      node.label.textContent = node.me ? "you" : node.role === "origin" ? "origin" : id;
      node.sign.textContent = { origin: "▲", seed: "◆", viewer: "" }[node.role];
    }
  }

  #arrive(id) {
    const group = svg("g", {}, this.#dots);
    const node = { group, order: this.#nodes.size, fresh: true };
    node.halo = svg("circle", { class: "halo" }, group);
    node.dot = svg("circle", { class: "dot" }, group);
    node.sign = svg("text", { class: "sign", y: 4 }, group);
    node.label = svg("text", { class: "label" }, group);
    this.#nodes.set(id, node);
    return node;
  }

  #leave(id, node) {
    this.#nodes.delete(id);
    node.group.setAttribute("class", `${node.group.getAttribute("class")} gone`);
    setTimeout(() => node.group.remove(), 400);
  }

  #keepLinks(links) {
    const seen = new Set();
    for (const { from, to, kbps } of links) {
      if (!this.#nodes.has(from) || !this.#nodes.has(to) || from === to) continue;
      const name = `${from}>${to}`;
      seen.add(name);
      const edge = this.#edges.get(name) ?? this.#connect(name, from, to);
      const mine = this.#nodes.get(from).me || this.#nodes.get(to).me;
      const width = 1 + 4 * Math.sqrt(Math.min(1, Math.max(0, kbps) / KBPS_WIDE));
      edge.group.setAttribute("class", `link from-${this.#nodes.get(from).role}${mine ? " mine" : ""}`);
      edge.path.setAttribute("stroke-width", width.toFixed(1));
      edge.flow.setAttribute("stroke-width", Math.max(1.4, width * 0.6).toFixed(1));
      edge.flow.setAttribute("marker-end", `url(#arrow-${this.#nodes.get(from).role})`);
      edge.flow.style.animationDuration = `${(2.4 - 1.6 * Math.min(1, kbps / KBPS_WIDE)).toFixed(2)}s`;
    }
    for (const [name, edge] of this.#edges) {
      if (seen.has(name)) continue;
      edge.group.remove();
      this.#edges.delete(name);
    }
  }

  #connect(name, from, to) {
    const group = svg("g", {}, this.#links);
    const edge = { from, to, group };
    edge.path = svg("path", { class: "wire" }, group);
    edge.flow = svg("path", { class: "flow" }, group);
    this.#edges.set(name, edge);
    return edge;
  }

  // Where everybody goes.

  #layout() {
    const rows = this.#rows();
    const width = Math.max(300, this.#frame.parentElement.clientWidth);
    const lines = rows.flatMap((row) => folded(row, width));
    const height = 2 * MARGIN + Math.max(1, lines.length - 1) * ROW;
    this.#frame.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#frame.setAttribute("height", height);
    const crowded = this.#nodes.size > LABELS_MAX;
    this.#frame.setAttribute("class", crowded ? "crowded" : "");
    lines.forEach((line, depth) => {
      line.forEach((node, place) => {
        const step = width / (line.length + 1);
        node.toX = step * (place + 1);
        // Neighbours in a row stand on a gentle arc, so that links along the row are seen.
        const middle = (place - (line.length - 1) / 2) / Math.max(1, line.length);
        node.toY = MARGIN + depth * ROW + 22 * (0.25 - middle * middle) * (line.length > 2 ? 1 : 0);
      });
    });
    for (const node of this.#nodes.values()) if (node.fresh) this.#placeNewcomer(node);
    this.#glide();
  }

  // Layers by distance from the origin (or the seeds), each sorted below its parents.
  #rows() {
    const parents = new Map([...this.#nodes.keys()].map((id) => [id, []]));
    const children = new Map([...this.#nodes.keys()].map((id) => [id, []]));
    for (const { from, to } of this.#edges.values()) {
      parents.get(to).push(from);
      children.get(from).push(to);
    }
    const depth = depths(this.#nodes, parents, children);
    const rows = [];
    for (const [id, node] of this.#nodes) (rows[depth.get(id)] ??= []).push({ id, node });
    const filled = rows.filter(Boolean);
    for (const row of filled) spread(row.sort((a, b) => a.node.order - b.node.order));
    for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
      for (const row of filled) this.#sortRow(row, sweep % 2 ? children : parents);
    }
    return filled.map((row) => row.map(({ node }) => node));
  }

  #sortRow(row, neighbours) {
    for (const member of row) {
      const around = neighbours.get(member.id).map((id) => this.#nodes.get(id).order);
      member.key = around.length ? around.reduce((a, b) => a + b) / around.length : member.node.order;
    }
    spread(row.sort((a, b) => a.key - b.key));
  }

  #placeNewcomer(node) {
    node.fresh = false;
    node.x = node.toX;
    node.y = node.toY - 30;
  }

  #glide() {
    if (this.#moving) return;
    this.#moving = true;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const step = () => {
      let rest = 0;
      for (const node of this.#nodes.values()) {
        const part = still ? 1 : GLIDE;
        node.x += (node.toX - node.x) * part;
        node.y += (node.toY - node.y) * part;
        rest = Math.max(rest, Math.abs(node.toX - node.x), Math.abs(node.toY - node.y));
      }
      this.#draw();
      if (rest > 0.3) requestAnimationFrame(step);
      else this.#moving = false;
    };
    requestAnimationFrame(step);
  }

  #draw() {
    for (const node of this.#nodes.values()) {
      node.group.setAttribute("transform", `translate(${node.x.toFixed(1)} ${node.y.toFixed(1)})`);
    }
    for (const { from, to, path, flow } of this.#edges.values()) {
      const line = curve(this.#nodes.get(from), this.#nodes.get(to));
      path.setAttribute("d", line);
      flow.setAttribute("d", line);
    }
  }

  // The same in words.

  #say(graph, total) {
    const names = new Map(graph.nodes.map((n) => [n.id, n.me ? "you" : `${n.role} ${n.id}`]));
    const lines = graph.links
      .filter((link) => names.has(link.from) && names.has(link.to))
      .map((link) => `${names.get(link.from)} → ${names.get(link.to)}: ${Math.round(link.kbps)} kbit/s`);
    if (total > graph.nodes.length) lines.push(`and ${total - graph.nodes.length} more nodes`);
    this.#words.replaceChildren(...lines.map((line) => listItem(line)));
    const feeding = graph.links.filter((link) => names.get(link.to) === "you").length;
    const fed = graph.links.filter((link) => names.get(link.from) === "you").length;
    this.#text.textContent =
      `${total} nodes. ${feeding} of them feed you, you feed ${fed}. The list below has every link.`;
  }
}

// At most NODES_MAX nodes: me, the origin and the seeds, then whoever has links with these.
function nearest(graph) {
  if (graph.nodes.length <= NODES_MAX) return graph;
  const me = graph.nodes.find((node) => node.me)?.id;
  const close = new Set(graph.links.flatMap((l) => (l.from === me || l.to === me ? [l.from, l.to] : [])));
  const rank = (node) => (node.me ? 0 : node.role === "origin" ? 1 : close.has(node.id) ? 2 : node.role === "seed" ? 3 : 4);
  const nodes = [...graph.nodes].sort((a, b) => rank(a) - rank(b)).slice(0, NODES_MAX);
  return { nodes, links: graph.links };
}

// Hops from the source, then as far below its parents as these are on average: then most links
// point down, although a mesh has circles.
function depths(nodes, parents, children) {
  const hops = new Map();
  let layer = [...nodes].filter(([, node]) => node.role === "origin").map(([id]) => id);
  if (!layer.length) layer = [...nodes].filter(([, node]) => node.role === "seed").map(([id]) => id);
  const sources = new Set(layer);
  for (let hop = 0; layer.length; hop += 1) {
    for (const id of layer) hops.set(id, hop);
    layer = [...new Set(layer.flatMap((id) => children.get(id)))].filter((id) => !hops.has(id));
  }
  const deepest = Math.max(0, ...hops.values());
  const depth = new Map([...nodes.keys()].map((id) => [id, hops.get(id) ?? deepest + 1]));
  for (let round = 0; round < DEPTH_ROUNDS; round += 1) {
    for (const [id, above] of parents) {
      if (sources.has(id) || !above.length) continue;
      const mean = above.reduce((sum, parent) => sum + depth.get(parent), 0) / above.length;
      depth.set(id, Math.min(1 + mean, (hops.get(id) ?? deepest) + 2));
    }
  }
  return new Map([...depth].map(([id, value]) => [id, Math.round(value)]));
}

// A row that is too long for the width becomes several.
function folded(row, width) {
  const most = Math.max(3, Math.floor((width - MARGIN) / 70));
  const count = Math.ceil(row.length / most);
  const each = Math.ceil(row.length / count);
  return Array.from({ length: count }, (_, i) => row.slice(i * each, (i + 1) * each));
}

function spread(row) {
  row.forEach(({ node }, place) => (node.order = (place + 1) / (row.length + 1)));
}

function curve(a, b) {
  const down = b.y - a.y;
  const [from, to] = [edgePoint(a, b), edgePoint(b, a)];
  const at = ({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  if (down > ROW / 2) {
    const bend = down * 0.42;
    return `M${at(from)}C${from.x.toFixed(1)} ${(from.y + bend).toFixed(1)} ${to.x.toFixed(1)} ${(to.y - bend).toFixed(1)} ${at(to)}`;
  }
  // Along a row, or upwards: bulge to the side of travel, so that there and back differ.
  const bulge = Math.min(46, 14 + Math.abs(b.x - a.x) * 0.16) * (b.x > a.x ? -1 : 1);
  return `M${at(from)}Q${((a.x + b.x) / 2).toFixed(1)} ${((a.y + b.y) / 2 + bulge).toFixed(1)} ${at(to)}`;
}

// Where a link from a to b leaves the circle of a.
function edgePoint(a, b) {
  const radius = RADIUS[a.role] + (a.me ? 4 : 0) + 3;
  const down = b.y - a.y;
  if (down > ROW / 2) return { x: a.x, y: a.y + radius };
  if (down < -ROW / 2) return { x: a.x, y: a.y - radius };
  const length = Math.hypot(b.x - a.x, down) || 1;
  return { x: a.x + ((b.x - a.x) / length) * radius, y: a.y + (down / length) * radius };
}

function arrow(frame, role) {
  const size = { viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 8, markerHeight: 8 };
  const marker = svg("marker", { id: `arrow-${role}`, orient: "auto", markerUnits: "userSpaceOnUse", ...size }, frame);
  svg("path", { class: `arrow from-${role}`, d: "M1 1 7 4 1 7z" }, marker);
}

function listItem(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}
