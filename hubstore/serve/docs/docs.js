// The API's description as a page: every operation, what it takes and what it answers.

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(name, content, className) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...[content ?? []].flat());
  return made;
}

function code(text) {
  return element("code", text);
}

/** A schema in a few words: "string or null", "array of integer", "NeighborsQuery". */
function words(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(words).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.type === "array") return `array of ${words(schema.items) || "anything"}`;
  const bounds = [];
  if (schema.minimum !== undefined) bounds.push(`from ${schema.minimum}`);
  if (schema.maximum !== undefined) bounds.push(`to ${schema.maximum}`);
  return [schema.format === "binary" ? "bytes" : schema.type ?? "anything", ...bounds].join(" ");
}

function table(heads, rows) {
  const head = element("tr", heads.map((text) => element("th", text)));
  return element("table", [
    element("thead", head),
    element("tbody", rows.map((cells) => element("tr", cells.map((cell) => element("td", cell))))),
  ]);
}

function parameters(operation) {
  const rows = (operation.parameters ?? []).map((one) => [
    code(one.name + (one.required ? " *" : "")),
    one.in,
    words(one.schema),
    one.schema?.default === undefined ? "" : code(JSON.stringify(one.schema.default)),
    one.description ?? "",
  ]);
  return rows.length ? [table(["parameter", "in", "is", "default", ""], rows)] : [];
}

function bodies(operation) {
  const content = operation.requestBody?.content ?? {};
  const rows = Object.entries(content).map(([media, body]) => [code(media), schemaLink(body.schema)]);
  return rows.length ? [table(["body", "is"], rows)] : [];
}

function answers(operation) {
  const rows = Object.entries(operation.responses).map(([status, answer]) => {
    const kinds = Object.entries(answer.content ?? {});
    const cells = kinds.flatMap(([media, { schema }]) => [code(media), " ", schemaLink(schema), element("br")]);
    return [code(status), answer.description, cells];
  });
  return [table(["status", "", "content"], rows)];
}

function schemaLink(schema) {
  const name = words(schema);
  if (!schema?.$ref) return name;
  const link = element("a", name);
  link.href = `#${name}`;
  return link;
}

function operation(path, method, described) {
  const summary = element("summary", [
    element("span", method.toUpperCase(), "method"),
    code(path),
    element("span", described.summary ?? "", "words"),
  ]);
  const inside = [element("p", described.description ?? ""), ...parameters(described), ...bodies(described)];
  return element("details", [summary, element("div", [...inside, ...answers(described)])]);
}

function schema(name, described) {
  const required = new Set(described.required ?? []);
  const rows = Object.entries(described.properties ?? {}).map(([field, about]) => [
    code(field + (required.has(field) ? " *" : "")),
    about.$ref || about.items?.$ref ? schemaLink(about.$ref ? about : about.items) : words(about),
    about.description ?? "",
  ]);
  const made = element("details", [
    element("summary", code(name)),
    element("div", [element("p", described.description ?? ""), table(["field", "is", ""], rows)]),
  ]);
  made.id = name;
  return made;
}

function show(api) {
  const tags = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((one) => methods[one])) {
      const tag = methods[method].tags?.[0] ?? "other";
      tags.set(tag, [...(tags.get(tag) ?? []), operation(path, method, methods[method])]);
    }
  }
  const groups = [...tags].flatMap(([tag, operations]) => [element("h2", tag), ...operations]);
  const schemas = Object.entries(api.components?.schemas ?? {}).map(([name, one]) => schema(name, one));
  return [element("p", api.info.description), ...groups, element("h2", "schemas"), ...schemas];
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

const main = document.getElementById("operations");
try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  main.replaceChildren(...show(await answer.json()));
} catch (error) {
  main.replaceChildren(element("p", `The description could not be read: ${error.message}`));
}
openTarget();
addEventListener("hashchange", openTarget);
