//! The form for a sandbox's tags: it replaces them all, as `PUT` does.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::super::answers::Sandbox;
use super::super::problem::{Problem, Reason};
use super::super::sandboxes::SandboxId;
use super::fields::Fields;
use super::frame::{Refusal, is_about_the_form, sentence};
use super::questions::Questions;
use super::sandbox;
use super::words;

/// Rows for tags that are not there yet.
const BLANK_ROWS: usize = 3;

/// What was typed and refused, and why.
pub(super) struct Draft {
    pairs: Vec<(String, String)>,
    problem: Problem,
}

/// `POST /sandboxes/{id}/tags`.
pub(super) async fn replace(
    questions: Questions,
    SandboxId(id): SandboxId,
    body: Bytes,
) -> Result<Response, Refusal> {
    let pairs = pairs(&Fields::of_form(&body));
    let saved = match tags(&pairs) {
        Ok(tags) => questions.replace_tags(&id, Value::Object(tags).to_string().into()).await,
        Err(problem) => Err(problem),
    };
    match saved {
        Ok(_) => Ok(Redirect::to(&format!("/sandboxes/{id}?saved=tags#tags")).into_response()),
        Err(problem) if is_about_the_form(&problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            let draft = Draft { pairs, problem };
            let page = sandbox::render(&questions, &id, &Fields::default(), Some(&draft)).await?;
            Ok((status, page).into_response())
        }
        Err(problem) => Err(problem.into()),
    }
}

/// The keys and values of a form, in turns, without the rows that were left blank.
fn pairs(fields: &Fields) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in fields.iter() {
        match (name, pairs.last_mut()) {
            ("key", _) => pairs.push((value.trim().to_owned(), String::new())),
            ("value", Some(pair)) => value.trim().clone_into(&mut pair.1),
            _ => {}
        }
    }
    pairs.retain(|pair| *pair != (String::new(), String::new()));
    pairs
}

fn tags(pairs: &[(String, String)]) -> Result<Map<String, Value>, Problem> {
    let mut tags = Map::new();
    for (key, value) in pairs {
        if tags.insert(key.clone(), value.clone().into()).is_some() {
            let detail = format!("the key {key:?} is given twice: a sandbox has one value of each");
            return Err(Problem::new(Reason::InvalidTag, detail));
        }
    }
    Ok(tags)
}

/// The form; for whoever may only read, the tags.
pub(super) fn form(sandbox: &Sandbox, may_tag: bool, draft: Option<&Draft>) -> Markup {
    let current: Vec<_> = sandbox.tags.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut rows = draft.map_or(current, |draft| draft.pairs.clone());
    let updated = sandbox.tags.tags_last_updated_at.as_deref();
    let last_updated =
        updated.map_or("never changed".to_owned(), |at| format!("last changed {}", words::moment(at)));
    if may_tag {
        rows.extend(std::iter::repeat_n((String::new(), String::new()), BLANK_ROWS));
    }
    let wrong = draft.map(|draft| sentence(&draft.problem.detail));
    html! {
        @if let Some(wrong) = &wrong { p.alert #wrong role="alert" { (wrong) } }
        @if may_tag {
            form.tags method="post" action={ "/sandboxes/" (sandbox.sandbox_id) "/tags" }
                aria-describedby=[wrong.is_some().then_some("wrong")] {
                fieldset {
                    legend { "All tags of this sandbox, " (last_updated) }
                    @for (index, (key, value)) in (1..).zip(&rows) { (row(index, key, value)) }
                    p.hint {
                        "Clear a row to remove its tag. Keys have letters, digits and " code { "_ . : -" }
                        ", and do not begin with " code { "dm:" } "."
                    }
                }
                button type="submit" { "Save tags" }
            }
        } @else {
            p.hint { "Tags were " (last_updated) ". This token may only read: one for writing may change tags." }
            dl.summary {
                @for (key, value) in &rows { div { dt { (key) } dd { (value) } } }
            }
        }
    }
}

fn row(index: usize, key: &str, value: &str) -> Markup {
    html! {
        div.pair {
            label { "Key" span.unseen { " " (index) }
                input name="key" value=(key) maxlength="128" autocomplete="off" spellcheck="false"; }
            label { "Value" span.unseen { " " (index) }
                input name="value" value=(value) maxlength="256" autocomplete="off" spellcheck="false"; }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_in_turns_and_blank_rows_are_no_tags() {
        let pairs = |body: &'static [u8]| pairs(&Fields::of_form(&Bytes::from_static(body)));
        let body = b"key=team&value=red+hot&key=&value=&key=+env+&value=&value=x&other=1&key=&value=v";
        let found = pairs(body);
        let told: Vec<_> = found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(told, [("team", "red hot"), ("env", "x"), ("", "v")]);
        assert_eq!(pairs(b"value=lost"), []);
        let twice = pairs(b"key=a&value=1&key=a&value=2");
        assert_eq!(tags(&twice).map_err(|problem| problem.reason), Err("INVALID_TAG"));
    }
}
