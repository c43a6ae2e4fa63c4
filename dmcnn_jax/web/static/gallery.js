
// Sorts the pictures by a measure.
{
  const list = document.getElementById("pictures");
  const articles = [...list.querySelectorAll("article")];
  const order = document.getElementById("order");
  const by = document.getElementById("by");
  const said = document.getElementById("said");

  const sort = () => {
    const value = (article) => Number(article.dataset[by.value]);
    const named = [...articles].sort((a, b) =>
      a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }));
    const rising = [...named].sort((a, b) => value(a) - value(b) || 0);
    const orders = {
      name: () => named,
      rising: () => rising,
      falling: () => rising.reverse(),
      // The lowest, the highest, the second lowest, …
      ends: () => rising.map((_, n) => rising.at(n % 2 ? -(n + 1) / 2 : n / 2)),
    };
    list.append(...orders[order.value]());
    by.disabled = order.value === "name";
    said.textContent = `${articles.length} pictures, ${order.selectedOptions[0].text.toLowerCase()}`
      + (by.disabled ? "" : ` by ${by.selectedOptions[0].text}`);
  };
  order.addEventListener("change", sort);
  by.addEventListener("change", sort);
  by.closest("label").hidden = by.options.length < 2;
  document.querySelector(".toolbar").hidden = articles.length < 2;
}
