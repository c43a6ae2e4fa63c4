
// Sends files one after another, shows what became of each and offers the results for download.
{
  const at = (id) => document.getElementById(id);
  const limits = JSON.parse(document.querySelector("main").dataset.limits);
  const pictures = new Set();
  let sending = null;

  // A file in the list: its card, and where it stands.
  class Picture {
    constructor(file) {
      this.file = file;
      this.settings = settings();
      this.state = "waiting";
      this.urls = [];
      this.card = at("picture").content.firstElementChild.cloneNode(true);
      this.part("h2").textContent = file.name;
      this.part("progress").ariaLabel = `${file.name}, share restored`;
      for (const name of ["cancel", "again", "remove", "compare"]) {
        const button = this.part(`.${name}`);
        button.ariaLabel = `${button.textContent}: ${file.name}`;
        button.addEventListener("click", () => this[name]());
      }
      at("pictures").append(this.card);
      pictures.add(this);
      this.turn("waiting", "Waits for its turn");
    }

    part(css) { return this.card.querySelector(css); }

    // Changes what the card says and which buttons it has.
    turn(state, text) {
      this.state = state;
      const busy = state === "waiting" || state === "sending";
      this.part(".state").textContent = text;
      this.part("progress").hidden = state !== "sending";
      this.part(".cancel").hidden = !busy;
      for (const name of ["again", "remove"]) this.part(`.${name}`).hidden = busy;
      for (const name of ["download", "compare"]) this.part(`.${name}`).hidden = state !== "done";
      if (state !== "failed") this.part(".problem").hidden = true;
      count();
    }

    async restore() {
      this.going = new AbortController();
      const { signal } = this.going;
      this.part("progress").removeAttribute("value");
      this.turn("sending", "Sending …");
      try {
        const answer = await send(this.file, this.settings, signal, (said) => this.tell(said));
        if (!signal.aborted) this.finish(answer);
      } catch (error) {
        if (!signal.aborted) {
          this.fail(error instanceof Problem ? error.message
            : `No answer from the program: is it still running? (${error.message})`);
        }
      }
    }

    tell({ waiting, done, busy }) {
      const percent = Math.floor(100 * (done ?? 0));
      this.part(".state").textContent = busy ? "Waits: the program is busy"
        : waiting ? `Waits: ${waiting} before this one`
        : done >= 1 ? "Writing …" : percent ? `Restoring: ${percent} %` : "Restoring …";
      if (done) this.part("progress").value = done;
    }

    finish({ file, preview, name, info }) {
      const shown = file.type === "image/tiff" ? preview : file;
      this.shown = shown && { blob: shown, info };
      const url = this.url(file);
      Object.assign(this.part(".download"), {
        href: url, download: name, textContent: `Download ${kind(file)} (${megabytes(file.size)})`,
        ariaLabel: `Download ${name}, ${megabytes(file.size)}`,
      });
      this.part("dl").replaceChildren(...Object.entries(info.about).flatMap(([key, value]) =>
        [make("dt", {}, key), make("dd", {}, String(value))]));
      this.turn("done", `Done in ${info.about.Time ?? "no time"}`);
      say(`${this.file.name}: done`);
      if (![...pictures].some((other) => other.card.classList.contains("open"))) this.compare();
    }

    fail(text) {
      this.turn("failed", "Not restored");
      this.part(".problem").textContent = text;
      this.part(".problem").hidden = false;
      say(`${this.file.name}: ${text}`);
    }

    cancel() {
      this.going?.abort();
      this.turn("cancelled", "Cancelled");
      this.part(".again").focus();
    }

    again() {
      this.forget();
      this.settings = settings();
      this.turn("waiting", "Waits for its turn");
      this.part(".cancel").focus();
      next();
    }

    remove() {
      this.going?.abort();
      this.forget();
      pictures.delete(this);
      this.card.remove();
      count();
      at("file").focus();
    }

    forget() {
      this.close();
      this.urls.forEach((url) => URL.revokeObjectURL(url));
      this.urls = [];
      this.shown = null;
    }

    url(blob) {
      this.urls.push(URL.createObjectURL(blob));
      return this.urls.at(-1);
    }

    // Opens the card, or closes it again, so that only what is looked at takes memory.
    async compare() {
      if (this.card.classList.contains("open")) {
        this.close();
        return;
      }
      this.card.classList.add("open");
      this.part("aside").hidden = false;
      this.part(".comparison").hidden = false;
      this.part(".compare").ariaExpanded = "true";
      this.part(".compare").textContent = "Close";
      this.part(".compare").ariaLabel = `Close: ${this.file.name}`;
      const inside = this.shown && await this.comparison().catch(() => null);
      if (!this.card.classList.contains("open")) return;
      this.part(".comparison").replaceChildren(inside
        ?? make("p", {}, "This browser can't show such a file; download it to look at it."));
    }

    close() {
      this.card.classList.remove("open");
      this.part("aside").hidden = true;
      this.part(".comparison").hidden = true;
      this.part(".comparison").replaceChildren();
      this.part(".compare").ariaExpanded = "false";
      this.part(".compare").textContent = "Compare";
      this.part(".compare").ariaLabel = `Compare: ${this.file.name}`;
    }

    async comparison() {
      const { blob, info } = this.shown;
      const turns = info.orientation === 1 || await turned(blob.type);
      this.part(".unturned").hidden = turns;
      const figures = await Promise.all([[kind(this.file), this.file], ["Restored", blob]].map(
        async ([label, source]) => {
          const image = make("img", { src: this.url(source), alt: `${this.file.name}, ${label}` });
          if (!turns) image.style.imageOrientation = "none";
          await image.decode();
          image.width = turns ? image.naturalWidth : info.width;
          image.height = turns ? image.naturalHeight : info.height;
          return make("figure", {}, image, make("figcaption", {}, label));
        }));
      const comparison = document.createElement("image-compare");
      comparison.setAttribute("name", this.file.name);
      comparison.append(...figures);
      return comparison;
    }
  }

  const problem = (text) => {
    at("problem").textContent = text;
    at("problem").hidden = !text;
  };

  // Screen readers say it; the cards show it.
  const say = (text) => { at("said").textContent = text; };

  const count = () => {
    const all = [...pictures];
    const of = (...states) => all.filter(({ state }) => states.includes(state)).length;
    const busy = of("waiting", "sending");
    at("all").hidden = all.length < 2;
    at("count").textContent = `${of("done")} of ${all.length} done`
      + (of("failed") ? `, ${of("failed")} not restored` : "");
    at("download-all").hidden = of("done") < 2;
    at("cancel-all").hidden = !busy;
    at("remove-all").hidden = busy > 0;
    at("drop").classList.toggle("small", all.length > 0);
    document.title = busy ? `${of("done")} of ${all.length} done – Restore JPEGs` : "Restore JPEGs";
  };

  // One file is sent at a time; the others wait here.
  const next = async () => {
    if (sending) return;
    while ((sending = [...pictures].find(({ state }) => state === "waiting"))) {
      await sending.restore();
    }
  };

  const add = (files) => {
    problem("");
    const large = files.filter(({ size }) => size > limits.bytes);
    if (large.length) {
      problem(large.map(({ name, size }) => `${name}: ${megabytes(size)}; expected up to `
        + `${megabytes(limits.bytes)}.`).join(" "));
    }
    for (const file of files) if (!large.includes(file)) new Picture(file);
    next();
  };

  // What the controls say, as parameters of a request.
  const settings = () => {
    const chosen = { format: at("format").value, strength: at("strength").value / 100 };
    if (!at("bits").disabled) chosen.bits = at("bits").value;
    if (at("upright").checked && !at("upright").disabled) chosen.upright = 1;
    return chosen;
  };

  const ABOUT = {
    png: "Lossless. Its pixels stay as stored, and viewers turn it as the camera says.",
    tiff: "Lossless, for editors. Its pixels stay as stored, and viewers turn it as the camera says.",
    webp: "Lossless and smaller than PNG. Its pixels stay as stored; some viewers don't turn WebP.",
    jpeg: "Two to three times the size of the file, with all that the file carries. Every coefficient"
      + " is one that the original may have had. Viewers turn it as the camera says.",
  };
  const update = () => {
    const format = at("format").value;
    at("bits").disabled = format === "jpeg" || format === "webp";
    at("upright").disabled = format === "jpeg";
    const percent = `${Math.round(100 * at("strength").value) / 100} %`;
    at("percent").textContent = percent;
    at("strength").setAttribute("aria-valuetext", percent);
    at("about-format").textContent = at("upright").checked && !at("upright").disabled
      ? "Lossless. The pixels are turned as the camera says." : ABOUT[format];
  };
  const defaults = JSON.parse(at("options").dataset.defaults);
  at("strength").step = defaults.strength % 5 ? "any" : 5;
  at("strength").value = defaults.strength;
  at("bits").value = defaults.bits;
  at("options").addEventListener("input", update);
  update();

  at("file").addEventListener("change", () => {
    add([...at("file").files]);
    at("file").value = "";
  });
  at("cancel-all").addEventListener("click", () => {
    for (const picture of pictures) if (!picture.part(".cancel").hidden) picture.cancel();
    at("file").focus();
  });
  at("remove-all").addEventListener("click", () => {
    for (const picture of [...pictures]) picture.remove();
  });
  at("download-all").addEventListener("click", () => {
    for (const { state, card } of pictures) {
      if (state === "done") card.querySelector(".download").click();
    }
  });
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (files.length) add(files);
    else problem("That was not a file; drop picture files.");
  });
}

class Problem extends Error {}

// Reads the answer: lines of JSON; the last one says how many bytes of files follow.
async function send(file, settings, signal, tell) {
  const query = new URLSearchParams({ report: "progress", ...settings });
  if (file.name.length < 256) query.set("name", file.name);
  const response = await ask(`restore?${query}`, file, signal, tell);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = new Uint8Array();
  const more = async () => {
    const { value, done } = await reader.read();
    if (done) throw new Error("the answer ended too soon");
    return value;
  };
  for (;;) {
    const end = rest.indexOf(10);
    if (end < 0) {
      rest = new Uint8Array(await new Blob([rest, await more()]).arrayBuffer());
      continue;
    }
    const message = JSON.parse(decoder.decode(rest.subarray(0, end)));
    rest = rest.subarray(end + 1);
    if (message.error) throw new Problem(message.error);
    if (message.bytes === undefined) {
      tell(message);
      continue;
    }
    const parts = [rest];
    let size = rest.length;
    while (size < message.bytes + message.preview) {
      parts.push(await more());
      size += parts.at(-1).length;
    }
    const files = new Blob(parts);
    return {
      ...message,
      file: files.slice(0, message.bytes, message.type),
      preview: message.preview ? files.slice(message.bytes, files.size, "image/png") : null,
    };
  }
}

// Sends a file; as long as all places of the program are taken, tries again after a while.
async function ask(address, file, signal, tell) {
  for (;;) {
    const response = await fetch(address, { method: "POST", body: file, signal });
    if (response.ok) return response;
    const seconds = Number(response.headers.get("retry-after"));
    if (!seconds) throw new Problem((await response.json()).error);
    tell({ busy: true });
    await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });
  }
}

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function kind({ type }) {
  return type === "image/webp" ? "WebP" : type.replace("image/", "").toUpperCase() || "JPEG";
}

// Returns whether the browser turns pictures of a type by their orientation, tried on 2 × 1 pixels.
async function turned(type) {
  const samples = JSON.parse(document.querySelector("main").dataset.turned);
  if (!(type in samples)) return true;
  const image = make("img", { src: samples[type] });
  await image.decode();
  return image.naturalWidth < image.naturalHeight;
}
