
// Sends one file at a time, waits for the result, shows it and offers it for download.
{
  const at = (id) => document.getElementById(id);
  const limits = JSON.parse(document.body.querySelector("main").dataset.limits);
  let going = null;
  let urls = [];

  const problem = (text) => {
    at("problem").textContent = text;
    at("problem").hidden = !text;
  };

  const forget = () => {
    urls.forEach((url) => URL.revokeObjectURL(url));
    urls = [];
    at("comparison").replaceChildren();
    at("result").hidden = true;
  };

  const restore = async (file) => {
    going?.abort();
    const current = going = new AbortController();
    forget();
    problem("");
    if (file.size > limits.bytes) {
      problem(`${file.name}: ${megabytes(file.size)}; expected up to ${megabytes(limits.bytes)}.`);
      return;
    }
    at("state").textContent = "Sending …";
    at("progress").removeAttribute("value");
    at("working").hidden = false;
    at("drop").classList.add("small");
    try {
      const { png, info } = await send(file, current.signal, tell);
      if (!current.signal.aborted) await show(file, png, info);
    } catch (error) {
      if (current.signal.aborted) return;
      problem(error instanceof Problem ? `${file.name}: ${error.message}`
        : `No answer from the program: is it still running? (${error.message})`);
      at("drop").classList.remove("small");
    } finally {
      if (going === current) {
        at("working").hidden = true;
        at("file").value = "";
      }
    }
  };

  const tell = ({ waiting, done }) => {
    if (waiting !== undefined) {
      at("state").textContent = waiting ? `Waiting: ${waiting} before this one` : "Restoring …";
    }
    if (done) at("progress").value = done;
  };

  const show = async (file, png, info) => {
    urls = [file, png].map((blob) => URL.createObjectURL(blob));
    const turns = info.orientation === 1 || await turnsPng();
    at("unturned").hidden = turns;
    const figures = await Promise.all(["JPEG", "Restored"].map(async (label, n) => {
      const image = make("img", { src: urls[n], alt: `${file.name}, ${label}` });
      if (!turns) image.style.imageOrientation = "none";
      await image.decode();
      image.width = turns ? image.naturalWidth : info.width;
      image.height = turns ? image.naturalHeight : info.height;
      return make("figure", {}, image, make("figcaption", {}, label));
    }));
    const comparison = document.createElement("image-compare");
    comparison.setAttribute("name", file.name);
    comparison.append(...figures);
    at("comparison").replaceChildren(comparison);
    at("name").textContent = file.name;
    at("download").href = urls[1];
    at("download").download = `${file.name.replace(/\.[^.]*$/, "")}-restored.png`;
    at("download").textContent = `Download PNG (${megabytes(png.size)})`;
    at("info").replaceChildren(...Object.entries(info.about).flatMap(([key, value]) =>
      [make("dt", {}, key), make("dd", {}, String(value))]));
    at("result").hidden = false;
    at("name").focus({ preventScroll: true });
  };

  at("file").addEventListener("change", (event) => {
    if (event.target.files.length) restore(event.target.files[0]);
  });
  at("cancel").addEventListener("click", () => {
    going?.abort();
    at("working").hidden = true;
    at("drop").classList.remove("small");
    at("file").value = "";
    at("file").focus();
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
    const files = event.dataTransfer.files;
    if (files.length === 1) restore(files[0]);
    else if (files.length) problem("One file at a time; for many, use dmcnn-restore folder/ -o cleaned/");
    else problem("That was not a file; drop a JPEG file.");
  });
}

class Problem extends Error {}

// Reads the answer: lines of JSON; the last one gives the number of bytes of PNG that follow.
async function send(file, signal, tell) {
  const response = await fetch("restore", { method: "POST", body: file, signal });
  if (!response.ok) throw new Problem((await response.json()).error);
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
    if (!message.bytes) {
      tell(message);
      continue;
    }
    const parts = [rest];
    let size = rest.length;
    while (size < message.bytes) {
      parts.push(await more());
      size += parts.at(-1).length;
    }
    return { png: new Blob(parts, { type: "image/png" }), info: message.info };
  }
}

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

// Returns whether the browser applies the EXIF orientation of PNG files, tried on 2 × 1 pixels.
async function turnsPng() {
  const image = make("img", { src: document.querySelector("main").dataset.turned });
  await image.decode();
  return image.naturalWidth < image.naturalHeight;
}
