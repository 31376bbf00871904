// Plays the endless MP4 of our node near the live edge: fetch, MediaSource, a small buffer that
// the playback rate keeps small. Nothing is replayed: whoever slept or stalled jumps to the edge.

import { BoxSplitter } from "./boxes.js";

const TARGET_S = 0.35; // Buffer to keep. Measured: 0.47 s glass to glass (facts/media.md 4).
const TARGET_S_MAX = 1.2; // Wild guess: a connection that needs more is not live.
const TARGET_STEP_S = 0.15; // Added by each stall ...
const TARGET_DECAY = 0.9995; // ... and forgotten within minutes, at ten ticks a second.
const RATE_MIN = 0.95; // Outside of these two, people hear it.
const RATE_MAX = 1.08;
const GAIN = 0.25; // Of the rate, per second of buffer too much or too little.
const JUMP_S = 1.5; // Further behind, catching up by rate would take more than 15 s.
const GAP_S = 0.1; // Frames may be missing at a seam; longer holes are jumped.
const TICK_MS = 100;
const KEEP_BEHIND_S = 6; // Of what was played: memory stays bounded.
const TRIM_EVERY_S = 6;
const QUEUE_MAX = 50; // Appends waiting: 10 s of chunks. More, and we start over at the edge.
const RETRY_MS = [250, 500, 1000, 2000, 4000];
const STRIP_EVERY_MS = 250;
const STRIP_LAG_MS_MAX = 60_000; // A live picture is not older.
const STRIP_BITS = 32;

export class Player {
  wantsPlay = true; // What the person wants, whatever the element does.
  stats = {
    mode: "none", currentTime: 0, frames: 0, dropped: 0, stalls: 0, stallS: 0, jumps: 0,
    reconnects: 0, bufferedS: 0, targetS: TARGET_S, rate: 1, lagS: null, width: 0, height: 0,
    error: "",
  };
  #video;
  #urls;
  #codecs = "";
  #source = null;
  #buffer = null;
  #work = []; // Appends and removals: a SourceBuffer does one at a time.
  #smoothS = null;
  #started = false;
  #stalledAt = null;
  #over = false;
  #canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  // urls: {feed, hls}. The feed is a fragmented MP4 without end.
  constructor(video, urls) {
    this.#video = video;
    this.#urls = urls;
    video.addEventListener("waiting", () => this.#stalled());
    video.addEventListener("playing", () => this.#moving());
    setInterval(() => this.#tick(), TICK_MS);
    setInterval(() => this.#readStrip(), STRIP_EVERY_MS);
  }

  get started() {
    return this.#started;
  }

  // codecs: as RFC 6381 has them. Later calls matter only when the player has to start over.
  start(codecs) {
    const first = !this.#codecs;
    this.#codecs = codecs;
    if (!first) return;
    const type = `video/mp4; codecs="${codecs}"`;
    if (window.MediaSource?.isTypeSupported(type)) {
      this.stats.mode = "mse";
      this.#followForEver();
    } else if (this.#video.canPlayType("application/vnd.apple.mpegurl")) {
      this.stats.mode = "hls";
      this.#started = true;
      this.#video.src = this.#urls.hls;
      this.play();
    } else {
      this.stats.error = `This browser cannot play ${codecs}.`;
    }
  }

  play() {
    this.wantsPlay = true;
    if (this.stats.mode === "mse" && this.#started) this.#toEdge();
    this.#video.play().catch((error) => {
      if (error.name === "NotAllowedError") this.wantsPlay = false;
    });
  }

  pause() {
    this.wantsPlay = false;
    this.#video.pause();
  }

  // The stream has ended: play out what is here, and ask for no more.
  finish() {
    this.#over = true;
  }

  // The feed.

  async #followForEver() {
    for (let tries = 0; !this.#over; tries += 1) {
      try {
        await this.#open();
        await this.#follow(() => (tries = 0));
      } catch (error) {
        this.stats.error = String(error.message ?? error);
        this.#close();
      }
      if (this.#over) break;
      this.stats.reconnects += 1;
      await sleep(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]);
    }
    this.#do(() => this.#source.endOfStream());
  }

  async #open() {
    if (this.#source?.readyState === "open") return;
    this.#source = new MediaSource();
    this.#video.src = URL.createObjectURL(this.#source);
    await new Promise((done) => this.#source.addEventListener("sourceopen", done, { once: true }));
    URL.revokeObjectURL(this.#video.src);
    this.#buffer = this.#source.addSourceBuffer(`video/mp4; codecs="${this.#codecs}"`);
    this.#buffer.addEventListener("updateend", () => this.#next());
    this.#started = false;
  }

  #close() {
    this.#work = [];
    this.#source = this.#buffer = null;
  }

  async #follow(progress) {
    const abort = new AbortController();
    const response = await fetch(this.#urls.feed, { signal: abort.signal, cache: "no-store" });
    if (!response.ok) throw new Error(`The node answers ${response.status}.`);
    const splitter = new BoxSplitter();
    const reader = response.body.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        for (const piece of splitter.push(value)) {
          if (this.#video.error) throw new Error(this.#video.error.message);
          if (this.#work.length > QUEUE_MAX) throw new Error("too far behind");
          this.#do((buffer) => buffer.appendBuffer(piece.data));
          if (piece.kind === "fragment") progress();
        }
      }
    } finally {
      abort.abort();
    }
  }

  #do(work) {
    this.#work.push(work);
    this.#next();
  }

  #next() {
    const buffer = this.#buffer;
    if (!buffer || buffer.updating || this.#source.readyState !== "open") return;
    const work = this.#work.shift();
    if (!work) return;
    try {
      work(buffer);
    } catch (error) {
      this.stats.error = error.message;
      if (error.name === "QuotaExceededError") this.#trim(0);
    }
    if (!buffer.updating) this.#next();
  }

  // The clock.

  #tick() {
    const { stats } = this;
    const video = this.#video;
    stats.currentTime = video.currentTime;
    stats.width = video.videoWidth;
    stats.height = video.videoHeight;
    const quality = video.getVideoPlaybackQuality?.();
    stats.frames = quality?.totalVideoFrames ?? 0;
    stats.dropped = quality?.droppedVideoFrames ?? 0;
    if (stats.mode === "mse" && this.#buffer && video.buffered.length) this.#steer();
  }

  #steer() {
    const video = this.#video;
    const ranges = video.buffered;
    const last = ranges.length - 1;
    const edge = ranges.end(last);
    const ahead = edge - video.currentTime;
    this.stats.bufferedS = Math.max(0, ahead);
    this.#trimIfDue(edge);
    if (!this.#started) {
      if (edge - ranges.start(last) >= this.stats.targetS) this.#begin();
      return;
    }
    if (video.paused || !this.wantsPlay) return;
    if (ahead > JUMP_S + this.stats.targetS || this.#inHole()) this.#toEdge();
    else this.#adjustRate(ahead);
  }

  #begin() {
    this.#started = true;
    this.#toEdge();
    if (this.wantsPlay) this.play();
  }

  // Where the picture is younger than anything else, but for the buffer we keep.
  #toEdge() {
    const video = this.#video;
    const ranges = video.buffered;
    if (!ranges.length) return;
    const last = ranges.length - 1;
    const place = Math.max(ranges.start(last) + 0.001, ranges.end(last) - this.stats.targetS);
    if (Math.abs(place - video.currentTime) < GAP_S) return;
    video.currentTime = place;
    this.#smoothS = null;
    if (this.#started) this.stats.jumps += 1;
  }

  // Whether nothing can be played here although there is something later.
  #inHole() {
    const ranges = this.#video.buffered;
    const now = this.#video.currentTime;
    for (let i = 0; i < ranges.length; i += 1) {
      const enough = i === ranges.length - 1 ? 0 : GAP_S;
      if (now >= ranges.start(i) - GAP_S && now < ranges.end(i) - enough) return false;
    }
    return now < ranges.end(ranges.length - 1);
  }

  #adjustRate(ahead) {
    const { stats } = this;
    stats.targetS = Math.max(TARGET_S, stats.targetS * TARGET_DECAY);
    // Chunks arrive in steps of 0.2 s: the mean counts, a rate that swings can be heard.
    this.#smoothS = this.#smoothS === null ? ahead : this.#smoothS * 0.9 + ahead * 0.1;
    const off = this.#smoothS - stats.targetS;
    const wanted = Math.abs(off) < 0.04 ? 1 : 1 + off * GAIN;
    const rate = Math.min(RATE_MAX, Math.max(RATE_MIN, Math.round(wanted * 100) / 100));
    if (this.#video.playbackRate !== rate) this.#video.playbackRate = rate;
    stats.rate = rate;
  }

  #trimIfDue(edge) {
    const video = this.#video;
    // Paused: what piles up will never be played, as playing goes on at the edge.
    const now = video.paused && this.#started ? edge : video.currentTime;
    if (now - video.buffered.start(0) > KEEP_BEHIND_S + TRIM_EVERY_S && !this.#work.length) {
      this.#trim(KEEP_BEHIND_S, now);
    }
  }

  #trim(keepS, now = this.#video.currentTime) {
    if (now - keepS > 0) this.#do((buffer) => buffer.remove(0, now - keepS));
  }

  #stalled() {
    if (!this.#started || this.#over || this.#video.seeking) return;
    this.#stalledAt ??= performance.now();
    this.stats.stalls += 1;
    this.stats.targetS = Math.min(TARGET_S_MAX, this.stats.targetS + TARGET_STEP_S);
  }

  #moving() {
    if (this.#stalledAt === null) return;
    this.stats.stallS += (performance.now() - this.#stalledAt) / 1000;
    this.#stalledAt = null;
  }

  // The wall clock in the picture: 1 + 32 blocks at the top, the lowest bit first.

  #readStrip() {
    const { videoWidth: width, videoHeight: height, paused } = this.#video;
    if (!width || paused) {
      this.stats.lagS = null;
      return;
    }
    const strip = Math.floor(height / 12);
    this.#canvas.canvas.width = width;
    this.#canvas.canvas.height = 1;
    this.#canvas.drawImage(this.#video, 0, strip >> 1, width, 1, 0, 0, width, 1);
    const row = this.#canvas.getImageData(0, 0, width, 1).data;
    const lit = (i) => row[Math.floor(((i + 0.5) * width) / (STRIP_BITS + 2)) * 4] > 128;
    if (!lit(0)) return;
    let stamp = 0;
    for (let bit = 0; bit < STRIP_BITS; bit += 1) if (lit(bit + 1)) stamp += 2 ** bit;
    const lagMs = (Date.now() % 2 ** STRIP_BITS) - stamp;
    // Test pictures carry a wall clock. Any other picture passes for one less than once in 10^5.
    if (lagMs > 0 && lagMs < STRIP_LAG_MS_MAX) this.stats.lagS = lagMs / 1000;
  }
}

function sleep(ms) {
  return new Promise((done) => setTimeout(done, ms));
}
