/** A place to drop an image or audio, or to choose one. */

import { fill, fresh, h, say } from "./dom.js";
import { bdi } from "./words.js";

/** @param {(file: File) => void} onfile */
export function dropZone(onfile) {
  const words = h("span", {}, "Drop an image or audio here, or choose one");
  const input = h("input", {
    type: "file",
    accept: "image/*,audio/*",
    id: fresh("file"),
    class: "unseen",
    onchange: () => take(input.files[0]),
  });
  const zone = h(
    "label",
    {
      class: "drop",
      for: input.id,
      ondragover: (event) => {
        event.preventDefault();
        zone.classList.add("over");
      },
      ondragleave: () => zone.classList.remove("over"),
      ondrop: (event) => {
        event.preventDefault();
        zone.classList.remove("over");
        take(event.dataTransfer.files[0]);
      },
    },
    words,
  );
  const take = (file) => {
    if (!file) return;
    if (!/^(image|audio)\//.test(file.type)) {
      say("That is neither an image nor audio");
      fill(words, bdi(file.name), " is neither an image nor audio; choose another");
      return;
    }
    fill(words, bdi(file.name), ` (${Math.ceil(file.size / 1024)} KiB)`);
    onfile(file);
  };
  return h("div", { class: "grow" }, input, zone);
}
