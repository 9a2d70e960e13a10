// What has been painted, as a PNG of one bit per pixel: small to send, and no canvas of the photograph's size is needed.

const BAND = 4e6; // pixels that are drawn at a time

/**
 * width, height: of the mask; draw(context): draws it, opaque, in its own pixels.
 * Resolves to { mask, marked } with the PNG as a Blob and the number of white pixels.
 */
export async function mask(width, height, draw) {
  const stride = 1 + Math.ceil(width / 8); // every row begins with the number of its filter, 0: none
  const rows = new Uint8Array(stride * height);
  const band = Math.max(1, Math.min(height, Math.floor(BAND / width)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, band];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let marked = 0;
  for (let top = 0; top < height; top += band) {
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, width, band);
    context.setTransform(1, 0, 0, 1, 0, -top);
    draw(context);
    const count = Math.min(band, height - top), { data } = context.getImageData(0, 0, width, count);
    for (let y = 0, at = 3; y < count; y++) {
      const row = (top + y) * stride + 1;
      for (let x = 0; x < width; x++, at += 4) {
        if (data[at] < 128) continue;
        rows[row + (x >> 3)] |= 128 >> (x & 7);
        marked++;
      }
    }
  }
  return { mask: await png(width, height, rows), marked };
}

async function png(width, height, rows) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 1); // bit per pixel, grey
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Blob([
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
    ...block("IHDR", new Uint8Array(header.buffer)),
    ...block("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())),
    ...block("IEND", new Uint8Array()),
  ], { type: "image/png" });
}

function block(name, content) {
  const letters = new TextEncoder().encode(name), [length, sum] = [0, 0].map(() => new DataView(new ArrayBuffer(4)));
  length.setUint32(0, content.length);
  sum.setUint32(0, crc(letters, content));
  return [length.buffer, letters, content, sum.buffer];
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc(...parts) {
  let sum = 0xffffffff;
  for (const part of parts) for (const byte of part) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
