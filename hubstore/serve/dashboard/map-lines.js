/** Lines from an item of the map to its equivalents, and their names beside them. */

import { ours } from "./colors.js";
import { visible } from "./words.js";

const [APART_X, APART_Y] = [26, 13]; // pixels between names that are both written

/** Lines from the first of some points to the others, and a ring around it. */
export function drawStar(context, plane, members, { color, width, opacity }) {
  if (!members.length) return;
  context.strokeStyle = color;
  context.lineWidth = width;
  context.globalAlpha = opacity;
  const [x, y] = plane.at(members[0]);
  context.beginPath();
  for (const other of members.slice(1)) {
    context.moveTo(x, y);
    context.lineTo(...plane.at(other));
  }
  context.stroke();
  context.globalAlpha = 1;
  context.lineWidth = 2;
  context.beginPath();
  context.arc(x, y, 8, 0, 2 * Math.PI);
  context.stroke();
}

/** Write in ink with an edge of paper, so that words are read on points of any color. */
export function edgedText(context, font, edge) {
  context.font = font;
  context.textBaseline = "middle";
  context.lineWidth = edge;
  context.lineJoin = "round";
  context.strokeStyle = ours("--paper");
  context.fillStyle = ours("--ink");
}

/** The languages of some points beside them. */
export function drawNames(context, plane, { language, modality }, members) {
  edgedText(context, "600 12px system-ui, sans-serif", 3);
  const written = [];
  for (const i of members) {
    const [x, y] = plane.at(i);
    if (written.some(([left, top]) => Math.abs(left - x) < APART_X && Math.abs(top - y) < APART_Y)) continue;
    written.push([x, y]);
    const words = visible(modality[i] === "text" ? language[i] : modality[i], 12);
    context.strokeText(words, x + 10, y);
    context.fillText(words, x + 10, y);
  }
}
