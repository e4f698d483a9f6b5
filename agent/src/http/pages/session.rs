//! Signing in: a browser carries no bearer token, so a form takes one, and a cookie stands for it.
//!
//! ```text
//!   sign-in form ─ token ─▶ known? ─▶ cookie: signed (token's id, end) ─▶ each request: signature, end, token not
//!                                                                          revoked, its limits ─▶ the page
//! ```
//!
//! The cookie is no secret of the token: it says which token, until when, and is signed with the ledger's own key. It
//! ends after half a day, or when the token is revoked. Scripts cannot read it, and no other site's request carries
//! it; and a form that another site sent is refused by what the browser says of where it comes from.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{COOKIE, HOST, HeaderName, ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use dormouse_ledger::Token;
use maud::html;
use serde::{Deserialize, Serialize};

use super::super::problem::{Problem, Reason};
use super::super::{Shared, admit};
use super::fields::Fields;
use super::frame::{Refusal, Tab, frame};

const COOKIE_NAME: &str = "dormouse_session";
const LASTS_SECONDS: i64 = 12 * 3_600;
const SECOND_NS: i64 = 1_000_000_000;
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Under which name cookies are signed, apart from all that cursors are signed for.
const SIGNED_AS: &str = "session";

/// What the cookie says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) token_id: String,
    pub(super) until_unix_ns: i64,
}

/// Lets a request with a session through to its page, with the token that the session stands for.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let is_question = request.method() == Method::GET;
    if !is_question && !is_of_this_site(request.headers()) {
        return foreign().into_response();
    }
    match token_of(&shared, request.headers()).await {
        Ok(Some(token)) => {
            let answer = admit::with_token(&shared, token, request, next).await;
            answer.unwrap_or_else(|problem| Refusal::from(problem).into_response())
        }
        Ok(None) => {
            let next = if is_question { target } else { "/".to_owned() };
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", &next).finish();
            Redirect::to(&format!("/sign-in?{query}")).into_response()
        }
        Err(problem) => Refusal::from(problem).into_response(),
    }
}

/// The token that a request's session stands for; `None` if there is no session that holds now.
async fn token_of(shared: &Shared, headers: &HeaderMap) -> Result<Option<Token>, Problem> {
    let Some(session) = cookie(headers).and_then(|value| shared.cursor_key.open::<Session>(SIGNED_AS, value))
    else {
        return Ok(None);
    };
    if session.until_unix_ns <= shared.site.clock.now().wall_ns {
        return Ok(None);
    }
    shared.readers.ask(move |reader, _| reader.token(&session.token_id)).await
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    pairs
        .flat_map(|pairs| pairs.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}

/// Whether a request that may change something comes from a page of this site, or from no browser at all.
fn is_of_this_site(headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text(&SEC_FETCH_SITE), text(&ORIGIN)) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, None) => true,
        // Browsers say no more than this of a page that came without TLS.
        (None, Some(origin)) => origin.split_once("://").map(|(_, host)| host) == text(&HOST),
    }
}

fn foreign() -> Refusal {
    let detail = "the form was not sent from a page of this site: open the page here and send it again";
    Problem::new(Reason::PermissionDenied, detail).into()
}

/// Where to go after signing in: to a page of this site, whatever is asked.
fn destination(fields: &Fields) -> &str {
    let next = fields.get("next").unwrap_or("/");
    let is_here = next.starts_with('/')
        && !next.starts_with("//")
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_here { next } else { "/" }
}

/// `GET /sign-in`.
pub(super) async fn form(fields: Fields) -> Response {
    sign_in_page(destination(&fields), None)
}

/// `POST /sign-in`: takes a token, and gives a cookie that stands for it.
pub(super) async fn sign_in(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    if !is_of_this_site(&headers) {
        return Err(foreign());
    }
    let fields = Fields::of_form(&body);
    let presented = fields.get("token").unwrap_or_default().trim().to_owned();
    let token = shared.readers.ask(move |reader, _| reader.bearer(&presented)).await?;
    let Some(token) = token else {
        let why = "This token is not known, or was revoked.";
        return Ok(sign_in_page(destination(&fields), Some(why)));
    };
    let until_unix_ns = shared.site.clock.now().wall_ns.saturating_add(LASTS_SECONDS * SECOND_NS);
    let session = Session { token_id: token.id, until_unix_ns };
    let value = shared.cursor_key.seal(SIGNED_AS, &session).map_err(Problem::from)?;
    let cookie = set_cookie(&headers, &value, LASTS_SECONDS);
    Ok(([(SET_COOKIE, cookie)], Redirect::to(destination(&fields))).into_response())
}

/// `POST /sign-out`: takes the cookie away.
pub(super) async fn sign_out(headers: HeaderMap) -> Result<Response, Refusal> {
    if !is_of_this_site(&headers) {
        return Err(foreign());
    }
    Ok(([(SET_COOKIE, set_cookie(&headers, "", 0))], Redirect::to("/sign-in")).into_response())
}

fn set_cookie(headers: &HeaderMap, value: &str, lasts_seconds: i64) -> String {
    // Where something in front speaks TLS, the cookie never goes without it.
    let is_tls = headers.get(X_FORWARDED_PROTO).is_some_and(|proto| proto == "https");
    let secure = if is_tls { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={value}; Path=/; Max-Age={lasts_seconds}; HttpOnly; SameSite=Strict{secure}")
}

fn sign_in_page(next: &str, wrong: Option<&str>) -> Response {
    let main = html! {
        form.card method="post" action="/sign-in" {
            @if let Some(wrong) = wrong { p.alert #wrong role="alert" { (wrong) } }
            input type="hidden" name="next" value=(next);
            label for="token" { "Token" }
            input #token type="password" name="token" autocomplete="current-password" required autofocus
                aria-invalid=[wrong.map(|_| "true")]
                aria-describedby=(if wrong.is_some() { "wrong hint" } else { "hint" });
            p.hint #hint {
                "One of your org, from " code { "dormouse token create --org ORG --role read|write" } ". "
                "A token for reading shows everything; one for writing also changes tags."
            }
            button type="submit" { "Sign in" }
        }
    };
    let status = if wrong.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
    (status, frame("Sign in", Tab::None, None, &main)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn a_form_of_another_site_is_known_by_what_the_browser_says() {
        for (is_ours, pairs) in [
            (true, &[][..]),
            (true, &[("sec-fetch-site", "same-origin"), ("origin", "null")]),
            (true, &[("sec-fetch-site", "none")]),
            (true, &[("origin", "http://here:7474"), ("host", "here:7474")]),
            (false, &[("sec-fetch-site", "cross-site")]),
            (false, &[("sec-fetch-site", "same-site"), ("origin", "http://here"), ("host", "here")]),
            (false, &[("origin", "http://here:8080"), ("host", "here:7474")]),
            (false, &[("origin", "null"), ("host", "here:7474")]),
            (false, &[("origin", "http://here:7474")]),
        ] {
            assert_eq!(is_of_this_site(&headers(pairs)), is_ours, "{pairs:?}");
        }
    }

    #[test]
    fn signing_in_leads_to_no_other_site() {
        for (next, destination) in [
            ("/usage?by=tag%3Ateam", "/usage?by=tag%3Ateam"),
            ("/", "/"),
            ("", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\nb", "/"),
        ] {
            let body = super::super::questions::query(&[("next", next)]);
            assert_eq!(super::destination(&Fields::of_form(&body.into())), destination, "{next}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others_and_goes_only_over_tls_where_there_is_tls() {
        let cookies = headers(&[("cookie", "a=b; dormouse_sessions=x; dormouse_session=abc; c=d")]);
        assert_eq!(cookie(&cookies), Some("abc"));
        assert_eq!(cookie(&headers(&[("cookie", "xdormouse_session=abc")])), None);
        assert!(!set_cookie(&headers(&[]), "v", 9).contains("Secure"));
        let tls = set_cookie(&headers(&[("x-forwarded-proto", "https")]), "v", 9);
        assert_eq!(tls, "dormouse_session=v; Path=/; Max-Age=9; HttpOnly; SameSite=Strict; Secure");
    }
}
