// Cuts a byte stream of fragmented MP4 into what a SourceBuffer takes whole: an init segment
// (ftyp + moov) or a fragment (moof + mdat). ISO/IEC 14496-12, 4.2.

const BOX_BYTES_MAX = 8 * 1024 * 1024; // A chunk has at most 4 MiB (stream/chunk.py).

export class BoxSplitter {
  #parts = []; // Bytes of a box that is not whole yet, as they came.
  #length = 0;
  #wanted = 8; // How many of them make it worth looking again.
  #held = []; // Boxes of a piece that is not whole yet.

  // Takes bytes, gives the pieces they complete: [{kind: "init" | "fragment", data}].
  push(bytes) {
    this.#parts.push(bytes);
    this.#length += bytes.length;
    if (this.#length < this.#wanted) return [];
    const buffer = joined(this.#parts);
    const pieces = [];
    this.#wanted = 8;
    let at = 0;
    while (buffer.length - at >= 8) {
      const view = new DataView(buffer.buffer, buffer.byteOffset + at);
      const size = view.getUint32(0);
      if (size < 8 || size > BOX_BYTES_MAX) throw new Error(`box of ${size} bytes`);
      if (buffer.length - at < size) {
        this.#wanted = size;
        break;
      }
      const name = String.fromCharCode(...buffer.subarray(at + 4, at + 8));
      this.#held.push(buffer.slice(at, at + size));
      if (name === "moov" || name === "mdat") {
        pieces.push({ kind: name === "moov" ? "init" : "fragment", data: joined(this.#held) });
        this.#held = [];
      }
      at += size;
    }
    this.#parts = [buffer.slice(at)];
    this.#length = buffer.length - at;
    return pieces;
  }
}

function joined(arrays) {
  const whole = new Uint8Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    whole.set(array, at);
    at += array.length;
  }
  return whole;
}
