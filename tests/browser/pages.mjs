// Walks through the pages in a real browser, by keyboard alone and with scripts switched off; holds each page against
// the rules of accessibility, light and dark; and sees to it that no other host is asked for anything.
//
//   node pages.mjs BASE_URL TOKEN SANDBOX FOLDER      with NODE_TOOLS: the folder of node_modules
//
// The sandbox must have ended, so that what it used stands still. Pictures of every page are left in FOLDER. Prints
// what was read in the pages as JSON; anything that is not as it must be is an error.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const tools = createRequire(join(process.env.NODE_TOOLS, "package.json"));
const { chromium } = tools("playwright-core");
const axe = readFileSync(tools.resolve("axe-core/axe.min.js"), "utf8");

const [base, token, sandbox, folder] = process.argv.slice(2);
const ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
const TABS_MAX = 80;

const profile = mkdtempSync(join(tmpdir(), "dormouse-browser-"));
mkdirSync(folder, { recursive: true });
const complaints = [];

// A context that tells of every request and of every complaint of the browser.
async function open(options) {
    const context = await chromium.launchPersistentContext(join(profile, options.name), {
        executablePath: "/usr/bin/chromium",
        headless: true,
        args: ARGUMENTS,
        viewport: { width: 1280, height: 900 },
        ...options,
    });
    context.setDefaultTimeout(20_000);
    const page = context.pages()[0] ?? (await context.newPage());
    page.on("request", (request) => {
        if (!request.url().startsWith(`${base}/`)) complaints.push(`asked for ${request.url()}`);
    });
    page.on("requestfailed", (request) => complaints.push(`${request.url()}: ${request.failure()?.errorText}`));
    page.on("console", (message) => {
        // The form that was refused is answered with the refusal's status, which a browser remarks upon.
        const isStatus = message.text().includes("the server responded with a status of 40");
        if (message.type() === "error" && !isStatus) complaints.push(message.text());
    });
    return { context, page };
}

// Goes on by the tab key until this has the focus. Whatever has it on the way shows that it does.
async function tabTo(page, locator) {
    const wanted = await locator.elementHandle();
    for (let pressed = 0; pressed < TABS_MAX; pressed += 1) {
        await page.keyboard.press("Tab");
        const [isIt, outline, what] = await page.evaluate((element) => {
            const active = document.activeElement;
            return [active === element, getComputedStyle(active).outlineStyle, active.outerHTML.slice(0, 80)];
        }, wanted);
        if (what.startsWith("<body")) continue;
        assert.notEqual(outline, "none", `nothing shows that the focus is on ${what}`);
        if (isIt) return;
    }
    assert.fail(`the tab key does not lead to ${await locator.evaluate((element) => element.outerHTML)}`);
}

async function heading(page, text) {
    await page.locator("h1", { hasText: text }).waitFor();
}

async function signIn(page) {
    await heading(page, "Sign in");
    assert.equal(await page.evaluate(() => document.activeElement.id), "token", "the form has the focus");
    await page.keyboard.type(token);
    await page.keyboard.press("Enter");
}

// The whole way, without a pointer and without scripts.
async function walk() {
    const { context, page } = await open({ name: "walk", javaScriptEnabled: false });
    await page.goto(`${base}/usage?last=24h`);
    await heading(page, "Sign in");
    await page.keyboard.type("dormouse_nobody_nothing");
    await page.keyboard.press("Enter");
    await page.getByRole("alert").waitFor();
    await signIn(page);
    await heading(page, "Usage");
    assert.ok(page.url().endsWith("/usage?last=24h"), page.url());

    await tabTo(page, page.getByRole("link", { name: "Skip to content" }));
    await page.keyboard.press("Enter");
    await tabTo(page, page.getByRole("combobox", { name: "By" }));
    await page.goto(`${base}/`);
    await tabTo(page, page.getByRole("link", { name: sandbox, exact: true }));
    await page.keyboard.press("Enter");
    await heading(page, `Sandbox ${sandbox}`);

    await page.locator("svg[role=img]").first().waitFor();
    const table = page.getByRole("region", { name: "Slices" }).getByRole("row");
    const slices = await table.evaluateAll((rows) => rows.map((row) => row.innerText.replaceAll(/\s+/g, " ")));
    await tabTo(page, page.getByRole("textbox", { name: "Key" }).last());
    await page.keyboard.type("dm:team");
    await page.keyboard.press("Enter");
    await page.getByRole("alert").waitFor();
    await tabTo(page, page.locator("input[value='dm:team']"));
    await page.keyboard.press("Control+a");
    await page.keyboard.type("team");
    await page.keyboard.press("Tab");
    await page.keyboard.type("red & blue");
    await page.keyboard.press("Enter");
    await page.getByRole("status").waitFor();

    await tabTo(page, page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Usage" }));
    await page.keyboard.press("Enter");
    await heading(page, "Usage");
    await tabTo(page, page.getByRole("combobox", { name: "By" }));
    await page.keyboard.type("tag team");
    await tabTo(page, page.getByRole("button", { name: "Show" }));
    await page.keyboard.press("Enter");
    await page.getByRole("columnheader", { name: "team" }).waitFor();
    const row = page.getByRole("row", { name: "red & blue" }).last();
    const amount = await row.getByRole("cell").last().innerText();
    const total = await page.locator("tfoot td").last().innerText();

    await tabTo(page, page.getByRole("button", { name: "Sign out" }));
    await page.keyboard.press("Enter");
    await heading(page, "Sign in");
    await page.goBack();
    await page.goto(`${base}/`);
    await heading(page, "Sign in");
    await context.close();
    return { slices, amount, total };
}

// Every page, held against the rules and looked at.
async function look(colorScheme) {
    const { context, page } = await open({ name: colorScheme, colorScheme });
    const broken = [];
    const seen = async (name) => {
        await page.evaluate(axe);
        const found = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
        for (const violation of found.violations) {
            broken.push(`${name} (${colorScheme}): ${violation.id}: ${violation.nodes.map((node) => node.html)}`);
        }
        await page.screenshot({ path: join(folder, `${name}-${colorScheme}.png`), fullPage: true });
    };
    await page.goto(`${base}/`);
    await seen("sign-in");
    await signIn(page);
    await heading(page, "Sandboxes");
    for (const [name, path] of [
        ["sandboxes", "/"],
        ["sandbox", `/sandboxes/${sandbox}`],
        ["sandbox-30-days", `/sandboxes/${sandbox}?last=30d`],
        ["usage-by-tag", "/usage?groupBy=tag:team&last=7d"],
        ["usage-by-sandbox", "/usage?groupBy=sandbox&last=24h"],
        ["outbox", "/outbox"],
        ["not-found", "/sandboxes/nobody"],
    ]) {
        await page.goto(`${base}${path}`);
        await seen(name);
    }
    await page.setViewportSize({ width: 390, height: 844 });
    await page.goto(`${base}/sandboxes/${sandbox}`);
    await seen("sandbox-narrow");
    await context.close();
    assert.deepEqual(broken, []);
}

try {
    const read = await walk();
    for (const colorScheme of ["light", "dark"]) await look(colorScheme);
    assert.deepEqual(complaints, []);
    console.log(JSON.stringify(read));
} finally {
    rmSync(profile, { recursive: true, force: true });
}
