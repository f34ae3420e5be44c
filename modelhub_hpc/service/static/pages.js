// Saves round trips; every page works without it.
"use strict";

document.documentElement.classList.add("js");

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".viewer").forEach(follow);
  document.querySelectorAll(".copy").forEach(offerCopy);
  document.querySelectorAll(".upload").forEach(takeDrops);
  document.querySelectorAll("form[data-wait]").forEach(sayWait);
  document.querySelectorAll("[data-events]").forEach(watch);
});

// A viewer's sliders change what is shown at once; plane and ground load the page anew.
function follow(viewer) {
  const field = (name) => viewer.elements[`${viewer.dataset.name}-${name}`];
  const slices = [...viewer.querySelectorAll(".slice, .png")];
  const layers = [...viewer.querySelectorAll(".layer")];
  let asked = false;

  function query() {
    const values = new URLSearchParams();
    for (const range of viewer.querySelectorAll(".window, .strength")) {
      values.set(range.name, range.value);
    }
    return values;
  }

  function address(file) {
    const number = field("slice") ? field("slice").value - 1 : 0;
    const plain = file.startsWith("layer") || file.startsWith("outline");
    return `${viewer.dataset.base}${number}/${file}${plain ? "" : `?${query()}`}`;
  }

  function show() {
    asked = false;
    for (const each of slices) {
      each.setAttribute("href", address(each.dataset.file));
    }
  }

  function say(range) {
    const value = Number(range.value);
    const text = {
      which: `${value} of ${range.max}`,
      strength: `${value} %`,
      window: `${value.toLocaleString("en", { maximumSignificantDigits: 4 })} ${range.dataset.of}`,
    }[range.className];
    range.nextElementSibling.textContent = text;
    range.setAttribute("aria-valuetext", text);
  }

  viewer.addEventListener("input", ({ target }) => {
    if (target.type !== "range") {
      viewer.requestSubmit();
      return;
    }
    say(target);
    if (target.className === "strength") {
      layers[target.dataset.of].setAttribute("opacity", target.value / 100);
    }
    if (!asked) {
      asked = true;
      requestAnimationFrame(show);
    }
  });

  viewer.querySelectorAll(".presets button").forEach((button) => {
    button.addEventListener("click", (event) => {
      event.preventDefault();
      for (const name of ["level", "width"]) {
        field(name).value = button.dataset[name];
        say(field(name));
      }
      show();
    });
  });
}

function offerCopy(button) {
  if (!navigator.clipboard) {
    return;
  }
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// Several files that are dropped at once go to the inputs whose names they have, and what is left in order.
function takeDrops(form) {
  const inputs = [...form.querySelectorAll("input[type=file]")];
  form.addEventListener("dragover", (event) => event.preventDefault());
  for (const box of form.querySelectorAll(".drop")) {
    box.addEventListener("dragenter", () => box.classList.add("over"));
    box.addEventListener("dragleave", (event) => {
      if (!box.contains(event.relatedTarget)) {
        box.classList.remove("over");
      }
    });
  }
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    form.querySelectorAll(".over").forEach((box) => box.classList.remove("over"));
    const files = [...event.dataTransfer.files];
    const aimed = event.target.closest(".drop");
    if (inputs.length === 1 || (files.length === 1 && aimed)) {
      give(aimed ? aimed.querySelector("input") : inputs[0], ...files);
      return;
    }
    const named = assign(files, inputs.map((input) => input.dataset.key));
    inputs.forEach((input, i) => named[i] && give(input, named[i]));
  });
}

// The longest key that a file's name has as a word wins: t1c.nii.gz is no t1.
function assign(files, keys) {
  const left = [...files];
  const found = keys.map(() => null);
  const order = keys.map((_, i) => i).sort((a, b) => keys[b].length - keys[a].length);
  for (const i of order) {
    const words = (file) => file.name.toLowerCase().split(/[^a-z0-9]+/);
    const at = left.findIndex((file) => words(file).includes(keys[i].toLowerCase()));
    if (at >= 0) {
      [found[i]] = left.splice(at, 1);
    }
  }
  return found.map((file) => file || left.shift() || null);
}

function give(input, ...files) {
  const taken = new DataTransfer();
  files.slice(0, input.multiple ? files.length : 1).forEach((file) => taken.items.add(file));
  input.files = taken.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

function sayWait(form) {
  form.addEventListener("submit", () => {
    form.querySelector(".wait").textContent = form.dataset.wait;
  });
  addEventListener("pageshow", () => { form.querySelector(".wait").textContent = ""; });  // after the back button too
}

// A run's progress as the server tells it.
function watch(part) {
  const set = (name, text) => { part.querySelector(`[data-field=${name}]`).textContent = text; };
  const source = new EventSource(part.dataset.events);

  function show(event) {
    const job = JSON.parse(event.data);
    const state = part.querySelector(".state");
    state.textContent = job.state;
    state.className = `state ${job.state}`;
    set("reason", job.reason || "");
    set("done", job.cases.done.toLocaleString("en"));
    set("failed", job.cases.failed.toLocaleString("en"));
    set("total", job.cases.total.toLocaleString("en"));
    set("eta", job.eta_seconds ? `, about ${Math.ceil(job.eta_seconds)} s to go` : "");
    const bar = part.querySelector("progress");
    bar.max = job.cases.total || 1;
    bar.value = job.cases.done + job.cases.failed;
  }

  source.addEventListener("progress", show);
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) {  // refused: so many others watch
      setTimeout(() => location.reload(), 10000);
    }
  });
  source.addEventListener("end", (event) => {
    show(event);
    source.close();
    location.reload();  // failures and report come with the page
  });
}
