// What the parts of the page share: the regions that answers, phrases and clicks have brought, which
// of them are shown, and how one is drawn. Texts reach the page as text nodes only, never as HTML.
(() => {
  "use strict";
  if (window.inlay) return;

  const FILL = 0.5; // as in the overlays that the command line writes
  const PX_PER_LINE = 320;
  const regions = new Map(); // by number
  const pinned = new Set(); // numbers
  const listeners = new Set();
  let hovered = null;

  const tell = () => listeners.forEach((listener) => listener());

  const store = {
    onChange: (listener) => listeners.add(listener),
    all: () => [...regions.values()],
    isHovered: (region) => region.number === hovered,
    shown: () => store.all().filter((r) => pinned.has(r.number) || store.isHovered(r)),
    pinned: () => store.all().filter((r) => pinned.has(r.number)),
    add(found, show) {
      for (const region of found) {
        regions.set(region.number, region);
        if (show) pinned.add(region.number);
      }
      tell();
    },
    toggle(number) {
      if (pinned.delete(number)) hovered = null; // gone at once, though pointer or focus are there
      else pinned.add(number);
      tell();
    },
    hover(number) {
      hovered = number;
      tell();
    },
    clear() {
      regions.clear();
      pinned.clear();
      hovered = null;
      tell();
    },
  };

  // COCO's run lengths: five bits a character, differences to the run before the last.
  function runs(counts) {
    const found = [];
    for (let at = 0; at < counts.length; ) {
      let value = 0;
      let bits = 0;
      let code;
      do {
        code = counts.charCodeAt(at++) - 48;
        value |= (code & 31) << bits;
        bits += 5;
      } while (code & 32);
      if (code & 16) value |= -1 << bits;
      if (found.length > 2) value += found[found.length - 2];
      found.push(value);
    }
    return found;
  }

  // 1 inside of a region, row by row, at the size of the canvas.
  function mask(rle, width, height) {
    const [rows, columns] = rle.size;
    const whole = new Uint8Array(rows * columns); // column by column
    let at = 0;
    runs(rle.counts).forEach((length, index) => {
      if (index % 2) whole.fill(1, at, at + length);
      at += length;
    });
    const inside = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      const row = Math.floor(((y + 0.5) * rows) / height);
      for (let x = 0; x < width; x++) {
        const column = Math.floor(((x + 0.5) * columns) / width);
        inside[y * width + x] = whole[column * rows + row];
      }
    }
    return inside;
  }

  // Beyond the border nothing is inside.
  function eroded(inside, width, height) {
    const left = new Uint8Array(inside.length);
    for (let y = 1; y < height - 1; y++) {
      for (let x = 1; x < width - 1; x++) {
        const i = y * width + x;
        left[i] = inside[i] & inside[i - 1] & inside[i + 1] & inside[i - width] & inside[i + width];
      }
    }
    return left;
  }

  // A canvas of one region: half transparent inside, its outline opaque.
  function drawn(region, width, height) {
    if (region.canvas?.width === width && region.canvas?.height === height) return region.canvas;
    const inside = mask(region.rle, width, height);
    let inner = inside;
    const line = Math.max(1, Math.round(Math.max(width, height) / PX_PER_LINE));
    for (let step = 0; step < line; step++) inner = eroded(inner, width, height);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (let i = 0; i < inside.length; i++) {
      if (!inside[i]) continue;
      pixels.data.set(region.colour, 4 * i);
      pixels.data[4 * i + 3] = inner[i] ? Math.round(255 * FILL) : 255;
    }
    context.putImageData(pixels, 0, 0);
    region.canvas = canvas;
    region.area = inside.reduce((sum, value) => sum + value, 0);
    return canvas;
  }

  // Small masks lie over large ones.
  function paint(canvas, shown) {
    const { width, height } = canvas;
    const layers = shown.map((region) => [drawn(region, width, height), region.area]);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    layers.sort((a, b) => b[1] - a[1]).forEach(([layer]) => context.drawImage(layer, 0, 0));
  }

  // The colours of a region's words: black or white ink, whichever is read better.
  function coloured(element, region) {
    const [red, green, blue] = region.colour;
    element.style.setProperty("--mark", `rgb(${red} ${green} ${blue})`);
    const isLight = 0.299 * red + 0.587 * green + 0.114 * blue > 128;
    element.style.setProperty("--ink", isLight ? "#000" : "#fff");
  }

  // Make an element show a region: the pointer or the focus on it for now, a click or Enter for good.
  function shows(element, region) {
    coloured(element, region);
    const toggle = () => store.toggle(region.number);
    element.dataset.region = region.number;
    element.addEventListener("mouseenter", () => store.hover(region.number));
    element.addEventListener("mouseleave", () => store.hover(null));
    element.addEventListener("focus", () => store.hover(region.number));
    element.addEventListener("blur", () => store.hover(null));
    element.addEventListener("click", () => {
      toggle();
      document.querySelector(".inlay-frame")?.scrollIntoView({ block: "nearest" });
    });
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
    element.setAttribute("role", "button");
    element.setAttribute("aria-label", `${region.phrase}, mask, score ${region.score.toFixed(2)}`);
    element.tabIndex = 0;
    press(element);
  }

  function press(element) {
    const number = Number(element.dataset.region);
    element.setAttribute("aria-pressed", String(pinned.has(number)));
    element.classList.toggle("is-shown", pinned.has(number) || number === hovered);
  }

  store.onChange(() => document.querySelectorAll("[data-region]").forEach(press));

  // A value of the server's calls a function at once and whenever it changes.
  function follow(props, watch, apply) {
    const run = () => props.value && apply(props.value);
    watch("value", run);
    run();
  }

  window.inlay = { store, paint, shows, coloured, follow };
})();
