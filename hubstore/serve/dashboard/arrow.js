/** Columns of 32-bit floats out of an Arrow stream: places of many points, without a number spelled out in text. */

const [SCHEMA, RECORD_BATCH] = [1, 3]; // kinds of messages
/** Buffers of a column of integers, floats, texts or booleans; the first says what is null. */
const BUFFERS = { 2: 2, 3: 2, 5: 3, 6: 2 };

/**
 * Some columns of a stream.
 * @param {ArrayBuffer} stream as `application/vnd.apache.arrow.stream`, not compressed.
 * @param {string[]} names of columns of 32-bit floats without nulls.
 * @returns {{columns: Object<string, Float32Array>, about: Object}} `about` is how the server says they were made.
 */
export function floatColumns(stream, names) {
  const view = new DataView(stream);
  const parts = Object.fromEntries(names.map((name) => [name, []]));
  let columns = [];
  let about = {};
  for (let at = 0; at + 8 <= stream.byteLength;) {
    const length = view.getInt32(at + 4, true); // after the marker of four bytes of 255
    if (length === 0) break;
    const body = at + 8 + length;
    const message = table(view, at + 8);
    const kind = view.getUint8(message.field(1));
    const header = table(view, message.field(2));
    if (kind === SCHEMA) {
      columns = vector(view, header.field(1), 4).map((place) => column(view, place));
      about = JSON.parse(metadata(view, header).get("hubstore") ?? "{}");
    }
    if (kind === RECORD_BATCH) {
      const buffers = vector(view, header.field(2), 16);
      let next = 0;
      for (const { name, type } of columns) {
        if (parts[name]) {
          const data = buffers[next + 1];
          const start = body + whole(view, data);
          parts[name].push(new Float32Array(stream.slice(start, start + whole(view, data + 8))));
        }
        next += BUFFERS[type];
      }
    }
    at = body + whole(view, message.field(3));
  }
  return { columns: Object.fromEntries(names.map((name) => [name, joined(parts[name])])), about };
}

/** The FlatBuffers table that the offset at a place points to: where its fields are. */
function table(view, at) {
  const start = at + view.getUint32(at, true);
  const fields = start - view.getInt32(start, true);
  const size = view.getUint16(fields, true);
  return {
    field(number) {
      const place = 4 + 2 * number;
      const offset = place < size ? view.getUint16(fields + place, true) : 0;
      return offset ? start + offset : 0;
    },
  };
}

/** Places of the members of the vector that the offset at a place points to. */
function vector(view, at, size) {
  const start = at + view.getUint32(at, true);
  return Array.from({ length: view.getUint32(start, true) }, (_, i) => start + 4 + size * i);
}

/** The text that the offset at a place points to. */
function text(view, at) {
  const start = at + view.getUint32(at, true);
  return new TextDecoder().decode(new Uint8Array(view.buffer, start + 4, view.getUint32(start, true)));
}

function column(view, at) {
  const field = table(view, at);
  return { name: text(view, field.field(0)), type: view.getUint8(field.field(2)) };
}

/** A schema's metadata: names and texts. */
function metadata(view, schema) {
  const place = schema.field(2);
  const entries = place ? vector(view, place, 4).map((at) => table(view, at)) : [];
  return new Map(entries.map((entry) => [text(view, entry.field(0)), text(view, entry.field(1))]));
}

/** A 64-bit integer that is no larger than 2 ** 53; 0 where a table leaves it out. */
function whole(view, at) {
  return at ? Number(view.getBigInt64(at, true)) : 0;
}

function joined(parts) {
  if (parts.length === 1) return parts[0];
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
