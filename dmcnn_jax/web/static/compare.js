
"use strict";

// <image-compare name="…"> shows its figures as one picture with a divider: one figure to its left,
// another to its right. Each figure has an <img width height> and a <figcaption> with its name.
// The divider is moved by pointer on the picture, by the slider below it, or by keyboard.
class ImageCompare extends HTMLElement {
  static count = 0;

  connectedCallback() {
    // An element that is moved in the page is connected again.
    if (this.window) return;
    const figures = [...this.querySelectorAll("figure")];
    this.images = figures.map((figure) => figure.querySelector("img"));
    this.labels = figures.map((figure) => figure.querySelector("figcaption").textContent);
    if (this.images.length < 2) return;
    const [{ width, height }] = this.images.map((image) => ({
      width: Number(image.getAttribute("width")), height: Number(image.getAttribute("height")),
    }));
    this.id_ = `compare-${ImageCompare.count++}`;
    // The size is also used by the layout around the element.
    const { style } = this.closest("article") ?? this;
    style.setProperty("--w", width);
    style.setProperty("--h", height);

    this.layers = make("div", { className: "layers" }, ...this.images);
    this.images.forEach((image) => { image.draggable = false; });
    this.window = make("div", { className: "window" }, this.layers);
    this.divider = make("div", { className: "divider" });
    this.tags = ["left", "right"].map((side) =>
      make("span", { className: `tag on-${side}`, ariaHidden: "true" }));
    this.stage = make("div", { className: "stage" }, this.window, this.divider, ...this.tags);
    this.range = make("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
    this.replaceChildren(this.stage, this.range,
      make("div", { className: "choices" }, this.makePairs(), this.makeZooms()));
    this.classList.add("ready");

    this.range.addEventListener("input", () => this.place());
    this.window.addEventListener("scroll", () => this.place(), { passive: true });
    new ResizeObserver(() => this.place()).observe(this.window);
    this.listen(this.divider, () => true);
    this.listen(this.window, () => !this.classList.contains("zoomed"));
    this.show(0, 1);
  }

  // With three pictures, radio buttons choose the two that are compared.
  makePairs() {
    const pairs = [];
    for (let i = 0; i < this.labels.length; i++) {
      for (let j = i + 1; j < this.labels.length; j++) pairs.push([i, j]);
    }
    const names = pairs.map(([i, j]) => `${this.labels[i]} | ${this.labels[j]}`);
    const set = this.makeRadios("pair", "Compare", names, (n) => this.show(...pairs[n]));
    set.hidden = pairs.length < 2;
    return set;
  }

  makeZooms() {
    const zooms = [1, 2, 4];
    const names = ["Fit", ...zooms.map((zoom) => `${zoom}×`)];
    return this.makeRadios("zoom", "Size", names, (n) => this.zoom(n ? zooms[n - 1] : 0));
  }

  makeRadios(kind, legend, names, choose) {
    return make("fieldset", { className: kind },
      make("legend", { className: "unseen" }, `${legend}: ${this.getAttribute("name") ?? ""}`),
      ...names.map((name, n) => {
        const input = make("input", {
          type: "radio", name: `${this.id_}-${kind}`, value: n, checked: n === 0,
        });
        input.addEventListener("change", () => choose(n));
        return make("label", {}, input, name);
      }));
  }

  show(left, right) {
    this.shown = [left, right];
    this.images.forEach((image, n) => {
      image.hidden = n !== left && n !== right;
      image.classList.toggle("left", n === left);
    });
    this.tags.forEach((tag, n) => { tag.textContent = this.labels[this.shown[n]]; });
    const name = this.getAttribute("name");
    this.range.ariaLabel = `Divider between ${this.labels[left]} and ${this.labels[right]}`
      + (name ? `, ${name}` : "");
    this.place();
  }

  // Magnifies `zoom` times; 0 fits the picture to the page. The middle of the view stays in place.
  zoom(zoom) {
    const { window: view } = this;
    const middle = ["Left", "Top"].map((side) => {
      const [client, scroll] = side === "Left"
        ? [view.clientWidth, view.scrollWidth] : [view.clientHeight, view.scrollHeight];
      return (view[`scroll${side}`] + client / 2) / scroll;
    });
    this.classList.toggle("zoomed", zoom > 0);
    this.style.setProperty("--zoom", zoom || 1);
    const larger = view.scrollWidth > view.clientWidth || view.scrollHeight > view.clientHeight;
    if (zoom && larger) {
      view.tabIndex = 0;
      view.role = "group";
      view.ariaLabel = "Enlarged picture, scrollable";
    } else {
      view.removeAttribute("tabindex");
      view.removeAttribute("role");
      view.ariaLabel = null;
    }
    view.scrollLeft = middle[0] * view.scrollWidth - view.clientWidth / 2;
    view.scrollTop = middle[1] * view.scrollHeight - view.clientHeight / 2;
    this.place();
  }

  place() {
    const share = Number(this.range.value) / 100;
    const cut = this.window.scrollLeft + share * this.window.clientWidth;
    this.layers.style.setProperty("--cut", `${cut}px`);
    // The divider and the labels keep clear of scroll bars.
    this.stage.style.setProperty("--bar-beside", `${this.window.offsetWidth - this.window.clientWidth}px`);
    this.stage.style.setProperty("--bar-below", `${this.window.offsetHeight - this.window.clientHeight}px`);
    this.stage.style.setProperty("--x", `${share * this.window.clientWidth}px`);
    const [left, right] = this.shown.map((n) => this.labels[n]);
    const percent = Math.round(100 * share);
    this.range.setAttribute("aria-valuetext", `${percent} % ${left}, ${100 - percent} % ${right}`);
  }

  // Pointers drag the divider; a finger that moves up or down scrolls the page instead.
  listen(target, allowed) {
    let start = null;
    const follow = (event) => {
      const box = this.window.getBoundingClientRect();
      this.range.value = 100 * (event.clientX - box.left) / this.window.clientWidth;
      this.place();
    };
    target.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !allowed()) return;
      start = { x: event.clientX, y: event.clientY, going: event.pointerType !== "touch" };
      target.setPointerCapture(event.pointerId);
      if (start.going) follow(event);
    });
    target.addEventListener("pointermove", (event) => {
      if (!start) return;
      const [x, y] = [Math.abs(event.clientX - start.x), Math.abs(event.clientY - start.y)];
      start.going ||= x > 4 && x > y;
      if (start.going) follow(event);
    });
    target.addEventListener("pointerup", (event) => {
      if (start) follow(event);
      start = null;
    });
    target.addEventListener("pointercancel", () => { start = null; });
  }
}

// Makes an element with properties and children; strings become text, never HTML.
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

customElements.define("image-compare", ImageCompare);
