//! What all pages have around them, and the page that says what went wrong.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use dormouse_ledger::Token;
use maud::{DOCTYPE, Markup, html};

use super::super::problem::{Problem, Reason};

/// Where in the navigation a page stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    /// Nowhere.
    None,
    /// Among the sandboxes.
    Sandboxes,
    /// Usage.
    Usage,
    /// The outbox.
    Outbox,
}

const TABS: [(Tab, &str, &str); 3] =
    [(Tab::Sandboxes, "/", "Sandboxes"), (Tab::Usage, "/usage", "Usage"), (Tab::Outbox, "/outbox", "Outbox")];

/// A whole page. Without a token nobody is signed in.
pub(super) fn frame(title: &str, tab: Tab, token: Option<&Token>, main: &Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Dormouse" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/style.css";
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header {
                    span.name { "Dormouse" }
                    @if let Some(token) = token {
                        (navigation(tab))
                        (who(token))
                    }
                }
                main #main tabindex="-1" {
                    h1 { (title) }
                    (main)
                }
                footer {
                    p {
                        "Times are UTC. 1 GB is 2" sup { "30" } " bytes. Programs read the same as JSON: "
                        a href="/api/openapi.json" { "OpenAPI" } "."
                    }
                }
            }
        }
    };
    Html(page.into_string())
}

fn navigation(here: Tab) -> Markup {
    html! {
        nav aria-label="Pages" {
            ul {
                @for (tab, target, name) in TABS {
                    li { a href=(target) aria-current=[(tab == here).then_some("page")] { (name) } }
                }
            }
        }
    }
}

fn who(token: &Token) -> Markup {
    html! {
        form.who method="post" action="/sign-out" {
            span { "Org " strong { (token.org) } ", may " (token.role.as_str()) }
            button.plain type="submit" { "Sign out" }
        }
    }
}

/// A problem, as people read it.
pub(super) struct Refusal(Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Problem { title, status, detail, reason, .. } = self.0;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let main = html! {
            div.card {
                p { (sentence(&detail)) }
                p.hint { "Reason " code { (reason) } }
                p { a href="/" { "To the sandboxes" } }
            }
        };
        (status, frame(title, Tab::None, None, &main)).into_response()
    }
}

/// A problem's words as a sentence of their own.
pub(super) fn sentence(detail: &str) -> String {
    let mut chars = detail.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

/// Whether a problem says that what a form carries must be changed.
pub(super) fn is_about_the_form(problem: &Problem) -> bool {
    [Reason::InvalidTag, Reason::InvalidBody, Reason::PermissionDenied]
        .iter()
        .any(|reason| reason.as_str() == problem.reason)
}
