// Narrows the failed cases to those that hold what is typed. Without it every case is there all the same.
const box = document.getElementById("find");
if (box) {
  box.closest("p").hidden = false;
  const cases = [...document.querySelectorAll(".case")];
  const texts = cases.map((each) => each.textContent.toLowerCase());
  const groups = [...document.querySelectorAll(".group")];
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    cases.forEach((each, i) => {
      each.hidden = !words.every((word) => texts[i].includes(word));
      left += each.hidden ? 0 : 1;
    });
    groups.forEach((group) => {
      const some = group.querySelector(".case:not([hidden])") !== null;
      group.hidden = !some;
      group.open = some && words.length > 0;
    });
    document.getElementById("left").textContent = words.length ? `${left} of ${cases.length} listed` : "";
  });
}
