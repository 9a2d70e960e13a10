// What the server is asked, and how its answers are read. Every problem is an Error with one line for a person.

const SILENT = "The server does not answer. Is ipt serve still running?";

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(SILENT);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? `The server answered ${response.status}.`);
}

const sending = (photo, signal) =>
  ({ method: "POST", body: photo, signal, headers: { "Content-Type": "application/octet-stream" } });

/** What the server can do, and its limits. */
export const about = async () => (await ask("api/about")).json();

/** Task weights and strength of a sentence. */
export const read = async (instruction, signal) => (await ask("api/read", {
  method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify({ instruction }),
})).json();

/** Task weights that the photo itself suggests. */
export const guess = async (photo, signal) => (await ask("api/guess", sending(photo, signal))).json();

/**
 * Restore a photo; `told` gets every line of progress. Resolves to { name, parts } with the parts as Blobs.
 * Aborting closes the connection, from which the server sees that nobody waits any more.
 */
export function restore(photo, { weights, strength, previews }, signal, told) {
  const task = Object.entries(weights).filter(([, w]) => w > 0).map(([name, w]) => `${name}=${w}`).join();
  return live("restore", { task, strength, name: photo.name ?? "", previews }, photo, signal, told);
}

/** Fill in what a mask (a PNG) marks in a photo; the rest as for `restore`. */
export const fill = (photo, mask, { seed }, signal, told) =>
  live("inpaint", { photo_bytes: photo.size, seed, name: photo.name ?? "" }, new Blob([photo, mask]), signal, told);

/** Add { top, right, bottom, left } px to a photo; the rest as for `restore`. */
export const extend = (photo, sides, { seed }, signal, told) =>
  live("outpaint", { ...sides, seed, name: photo.name ?? "" }, photo, signal, told);

async function live(address, query, body, signal, told) {
  const response = await ask(`api/${address}/live?${new URLSearchParams(query)}`, sending(body, signal));
  const source = new Source(response.body.getReader());
  for (;;) {
    const line = JSON.parse(await source.line());
    if (line.state === "error") throw new Error(line.error);
    if (!line.parts) {
      told(line);
      continue;
    }
    const parts = {};
    for (const [name, length] of Object.entries(line.parts))
      parts[name] = new Blob(await source.bytes(length), { type: name === "photo" ? line.type : "image/png" });
    return { ...line, parts };
  }
}

/** A stream read by lines and then by numbers of bytes. */
class Source {
  #reader;
  #rest = new Uint8Array();

  constructor(reader) { this.#reader = reader; }

  async #more() {
    let answer;
    try {
      answer = await this.#reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Error(SILENT);
    }
    if (answer.done) throw new Error("The server broke off its answer; try again.");
    return answer.value;
  }

  async line() {
    let text = "";
    const decoder = new TextDecoder();
    for (;;) {
      const end = this.#rest.indexOf(10);
      text += decoder.decode(end < 0 ? this.#rest : this.#rest.subarray(0, end), { stream: true });
      if (end >= 0) {
        this.#rest = this.#rest.subarray(end + 1);
        return text;
      }
      this.#rest = await this.#more();
    }
  }

  async bytes(length) {
    const pieces = [];
    while (length > 0) {
      if (!this.#rest.length) this.#rest = await this.#more();
      const piece = this.#rest.subarray(0, length);
      pieces.push(piece);
      this.#rest = this.#rest.subarray(piece.length);
      length -= piece.length;
    }
    return pieces;
  }
}
