// The page: asks the node how it is, twice a second, and shows it. Every word that came from
// outside goes in as text, never as markup.

import { MeshView } from "./graph.js";
import { Player } from "./player.js";
import { Sparkline } from "./charts.js";

const LOST_S = 4; // Eight reports missed.
const RATE_SPAN_S = 3; // Rates are means over this: chunks come five times a second.
const DOTS_MAX = 16; // Substreams (design/protocol.md: K = 4..16).
const DOTS_MIN = 4;
const VOLUME_STEP = 0.1;
const COVERS = {
  joining: ["Joining the stream", ""],
  waiting: ["Waiting for the broadcaster", "Nothing has come for a while. It goes on by itself."],
  ended: ["The stream has ended", "Thank you for passing it on."],
  error: ["Lost touch with your node", "Is p2pstream still running? This page tries again by itself."],
};

const $ = (id) => document.getElementById(id);
const video = $("video");
const player = new Player(video, { feed: "live/stream.mp4", hls: "live/index.m3u8" });
window.p2pstream = { stats: player.stats };

const mesh = new MeshView($("mesh"), $("mesh-text"), $("mesh-words"));
const sparks = {
  lag: new Sparkline($("spark-lag"), { label: "Lag", show: seconds, floor: 1 }),
  buffer: new Sparkline($("spark-buffer"), { label: "Buffer", show: seconds, floor: 1 }),
  down: new Sparkline($("spark-down"), { label: "Download", show: rate, floor: 500 }),
  up: new Sparkline($("spark-up"), { label: "Upload", show: rate, floor: 500 }),
};
const history = []; // [seconds, bytes taken, bytes given], for rates.
let heardAt = performance.now();

watch();
wireControls();

// Hearing from the node.

function watch() {
  const events = new EventSource("api/events");
  events.onmessage = (event) => {
    heardAt = performance.now();
    show(JSON.parse(event.data));
  };
  // A browser gives up on an answer that is no event stream; a node that comes back is heard.
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) setTimeout(watch, 2000);
  };
}

setInterval(() => {
  if (performance.now() - heardAt > LOST_S * 1000) cover("error");
}, 1000);

function show(state) {
  const playable = state.rendition?.codecs;
  if (playable && state.state !== "joining") player.start(playable);
  if (state.state === "ended") player.finish();
  text("title", state.stream.title || "Live stream");
  document.title = `${state.stream.title || "Live stream"} · p2pstream`;
  showStatus(state);
  showShare(state.totals);
  showPlayback(state);
  showPartners(state.partners);
  mesh.show(state);
  showFooter(state);
}

function showStatus(state) {
  const words = { joining: "joining", live: "live", waiting: "waiting", ended: "ended" };
  text("badge-text", words[state.state] ?? "error");
  if (player.stats.error && player.stats.mode === "none") cover("error", player.stats.error);
  else if (state.state === "live" && !player.started) cover("joining", "Filling the buffer.");
  else if (state.state === "live" || playsOut(state)) document.body.dataset.state = "live";
  else cover(state.state in COVERS ? state.state : "error", state.detail);
}

// Whether the last seconds of an ended stream are still to be seen.
function playsOut(state) {
  return state.state === "ended" && player.started && !video.ended && !video.paused;
}

function cover(name, detail) {
  document.body.dataset.state = name;
  text("cover-head", COVERS[name][0]);
  text("cover-detail", detail || COVERS[name][1]);
  if (name === "error") text("badge-text", "offline");
}

// Numbers.

function showShare(totals) {
  const taken = totals.from_peers + totals.from_seeds + totals.from_origin;
  const percent = (bytes) => (taken ? (100 * bytes) / taken : 0);
  text("share", taken ? Math.round(percent(totals.from_peers)) : "–");
  for (const [name, bytes] of [["viewers", totals.from_peers], ["seeds", totals.from_seeds], ["origin", totals.from_origin]]) {
    $(`bar-${name}`).style.width = `${percent(bytes)}%`;
    text(`from-${name}`, size(bytes));
  }
  const share = (bytes) => `${Math.round(percent(bytes))} %`;
  $("bar").setAttribute("aria-label",
    `Where the video came from: ${share(totals.from_peers)} viewers, ${share(totals.from_seeds)} seeds, ${share(totals.from_origin)} origin.`);
  text("uploaded", size(totals.uploaded));
  text("ratio", taken ? (totals.uploaded / taken).toFixed(1) : "0.0");
}

function showPlayback(state) {
  const { stats } = player;
  // With a clock in the picture we know; else it is what the node says, plus what waits here.
  const lag = stats.lagS ?? state.playout.lag_s + stats.bufferedS;
  const buffer = state.playout.buffer_s + stats.bufferedS;
  const live = state.state === "live" && player.started;
  $("lag-line").hidden = !live;
  const [down, up] = rates(state);
  for (const [name, value, words] of [["lag", lag, seconds(lag)], ["buffer", buffer, seconds(buffer)], ["down", down, rate(down)], ["up", up, rate(up)]]) {
    text(`tile-${name}`, words);
    if (live || name === "down" || name === "up") sparks[name].add(state.started_s, value);
  }
  text("lag", seconds(lag));
  const { rendition } = state;
  text("quality", rendition ? `${rendition.name} · ${rate(rendition.bitrate / 1000)}` : "–");
}

function rates(state) {
  const { totals } = state;
  const taken = totals.from_peers + totals.from_seeds + totals.from_origin;
  const now = [state.started_s, taken, totals.uploaded];
  if (history.length && now[0] < history[0][0]) history.length = 0; // The node was restarted.
  history.push(now);
  while (history.length > 2 && now[0] - history[0][0] > RATE_SPAN_S) history.shift();
  const [then] = history;
  const span = now[0] - then[0];
  return span > 0 ? [1, 2].map((i) => ((now[i] - then[i]) * 8) / 1000 / span) : [0, 0];
}

function showPartners(partners) {
  text("partners-count", partners.length === 1 ? "1 node" : `${partners.length} nodes`);
  const body = $("partners");
  const used = partners.flatMap((partner) => [...partner.feeds_me, ...partner.fed_by_me]);
  const dots = Math.min(DOTS_MAX, Math.max(DOTS_MIN, ...used.map((substream) => substream + 1)));
  const rows = new Map([...body.children].map((row) => [row.dataset.id, row]));
  body.replaceChildren(...partners.map((p) => partnerRow(rows.get(p.id), p, dots)));
}

function partnerRow(old, partner, dots) {
  const row = old ?? newRow(partner.id);
  const [node, rtt, down, up, hops, substreams] = row.cells;
  node.className = `who ${["origin", "seed"].includes(partner.role) ? partner.role : "viewer"}`;
  node.title = partner.role;
  node.replaceChildren(element("code", partner.id), element("span", partner.role, "quiet wide"));
  rtt.textContent = `${partner.rtt_ms.toFixed(0)} ms`;
  for (const [cell, kbps] of [[down, partner.down_kbps], [up, partner.up_kbps]]) {
    cell.textContent = kbps >= 1 ? Math.round(kbps) : "–";
    cell.classList.toggle("idle", kbps < 1);
  }
  hops.textContent = partner.hops ?? "–";
  substreams.replaceChildren(dotRow(partner, dots));
  return row;
}

function newRow(id) {
  const row = element("tr");
  row.dataset.id = id;
  for (const kind of ["who", "num", "num", "num", "num wide", "subs"]) row.append(element("td", "", kind));
  return row;
}

function dotRow(partner, count) {
  const group = element("span", "", "dots");
  for (let i = 0; i < count; i += 1) {
    const kinds = [partner.feeds_me.includes(i) && "in", partner.fed_by_me.includes(i) && "out"];
    group.append(element("span", "", ["dot", ...kinds.filter(Boolean)].join(" ")));
  }
  const list = (numbers) => (numbers.length ? numbers.join(", ") : "none");
  group.setAttribute("role", "img");
  group.setAttribute("aria-label", `feeds you ${list(partner.feeds_me)}; fed by you ${list(partner.fed_by_me)}`);
  return group;
}

function showFooter(state) {
  const { totals, playout } = state;
  const count = (number) => number.toLocaleString("en");
  text("verified", `${count(totals.pieces_verified)} pieces verified, ${count(totals.pieces_refused)} refused`);
  document.querySelector(".verified").classList.toggle("alarm", totals.pieces_refused > 0);
  const stalls = playout.stalls === 1 ? "1 stall" : `${playout.stalls} stalls`;
  text("facts", `${stalls} · started in ${seconds(playout.startup_s)} · you are ${state.me.id} · stream ${state.stream.id.slice(0, 8)}… · p2pstream ${state.version}`);
}

// Controls.

function wireControls() {
  $("play").onclick = togglePlay;
  $("mute").onclick = toggleMute;
  $("unmute").onclick = toggleMute;
  $("full").onclick = toggleFull;
  $("pip").onclick = togglePip;
  $("pip").hidden = !document.pictureInPictureEnabled;
  $("volume").oninput = (event) => setVolume(Number(event.target.value));
  video.onclick = togglePlay;
  video.ondblclick = toggleFull;
  for (const event of ["play", "pause", "volumechange", "playing"]) video.addEventListener(event, showControls);
  document.addEventListener("keydown", onKey);
  showControls();
}

function showControls() {
  const muted = video.muted || video.volume === 0;
  const stage = $("stage");
  stage.classList.toggle("paused", video.paused);
  stage.classList.toggle("muted", muted);
  $("play").setAttribute("aria-label", video.paused ? "Play from the live edge" : "Pause");
  $("mute").setAttribute("aria-label", muted ? "Turn on sound" : "Turn off sound");
  $("unmute").hidden = !muted || video.paused;
  $("volume").value = muted ? 0 : video.volume;
}

function togglePlay() {
  if (video.paused) player.play();
  else player.pause();
}

function toggleMute() {
  video.muted = !video.muted;
  if (!video.muted && video.volume === 0) video.volume = 1;
}

function setVolume(volume) {
  video.volume = Math.min(1, Math.max(0, volume));
  video.muted = video.volume === 0;
}

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("stage").requestFullscreen?.().catch(() => {});
}

function togglePip() {
  if (document.pictureInPictureElement) document.exitPictureInPicture();
  else video.requestPictureInPicture?.().catch(() => {});
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, summary")) return;
  if (event.target.matches("button") && event.key === " ") return;
  const actions = {
    " ": togglePlay, k: togglePlay, m: toggleMute, f: toggleFull, i: togglePip,
    ArrowUp: () => setVolume(video.volume + VOLUME_STEP),
    ArrowDown: () => setVolume(video.volume - VOLUME_STEP),
  };
  const action = actions[event.key];
  // The arrows scroll the page unless the player has the focus.
  if (!action || (event.key.startsWith("Arrow") && !$("stage").contains(event.target))) return;
  event.preventDefault();
  action();
}

// Words.

function text(id, words) {
  const target = $(id);
  const string = String(words);
  if (target.textContent !== string) target.textContent = string; // Else screen readers repeat it.
}

function element(name, words = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = words;
  made.className = kind;
  return made;
}

function seconds(value) {
  return `${value.toFixed(value < 10 ? 1 : 0)} s`;
}

function rate(kbps) {
  return kbps >= 1000 ? `${(kbps / 1000).toFixed(1)} Mbit/s` : `${Math.round(kbps)} kbit/s`;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const unit = bytes < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** unit;
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}
