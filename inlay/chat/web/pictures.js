// How pictures come in: by gradio's button, dropped or pasted; and those that wait for a text.
(() => {
  "use strict";
  const { follow } = window.inlay;
  if (window.inlay.strip) return;

  const input = () => document.querySelector("#inlay-upload input[type=file], input#inlay-upload");

  const choose = () => document.querySelector("#inlay-upload button, button#inlay-upload")?.click();

  function hand(list) {
    const pictures = [...(list ?? [])].filter((file) => file.type.startsWith("image/"));
    if (!pictures.length || !input()) return false;
    const files = new DataTransfer();
    files.items.add(pictures[0]);
    input().files = files.files;
    input().dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  }

  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    hand(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (hand(event.clipboardData.files)) event.preventDefault();
  });

  function thumbnail(picture) {
    const { url, width, height } = picture;
    return Object.assign(new Image(), { src: url, alt: `Picture, ${width} by ${height}` });
  }

  // Pictures that go with the next text.
  function strip(element, props, watch, drop) {
    const strip = element.querySelector(".inlay-strip");
    const row = strip.querySelector(".inlay-pictures");
    const problem = element.querySelector(".inlay-problem");
    const show = (images) => {
      row.replaceChildren(...images);
      strip.hidden = !images.length;
    };
    strip.querySelector("button").addEventListener("click", drop);
    follow(props, watch, (value) => {
      problem.textContent = value.problem ?? "";
      if (value.pictures) show(value.pictures.map(thumbnail));
    });
    // They went with a turn, or are gone with the conversation.
    window.inlay.sent = (turn) => {
      turn?.append(...row.children);
      show([]);
    };
  }

  Object.assign(window.inlay, { strip, choose });
})();
