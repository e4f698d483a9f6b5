//! The real pages, over TCP, as a browser asks for them.

use std::collections::BTreeMap;

use dormouse_ledger::usage::UsageLedger as _;
use dormouse_ledger::{Class, Editor, Record, Role, SinkNames, TagSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::tests::stage::{BEGAN, HOUR, Server, Store, limits};

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[track_caller]
    fn has(&self, text: &str) -> &Self {
        assert!(self.body.contains(text), "{text:?} is not in {}", self.body);
        self
    }

    #[track_caller]
    fn lacks(&self, text: &str) -> &Self {
        assert!(!self.body.contains(text), "{text:?} is in {}", self.body);
        self
    }
}

/// What a browser asks, with these lines in its head.
async fn ask(server: &Server, request: &str, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(server.address).await.expect("a server");
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{head}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.expect("a server");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Signs in, and returns the line of a head that says so.
async fn sign_in(server: &Server, token: &str) -> String {
    let answer = ask(server, "POST /sign-in", "", &format!("token={token}&next=%2Fusage")).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/usage")));
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(token.rsplit('_').next().expect("a secret")), "no secret is in the cookie");
    format!("Cookie: {}\r\n", cookie.split(';').next().expect("a pair"))
}

async fn get(server: &Server, target: &str, cookie: &str) -> Answer {
    let answer = ask(server, &format!("GET {target}"), cookie, "").await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.body);
    answer
}

#[tokio::test]
async fn without_a_session_every_page_leads_to_signing_in_and_back() {
    let server = Server::start(Store::Host, limits()).await;
    for (target, next) in [("/", "%2F"), ("/usage?last=7d", "%2Fusage%3Flast%3D7d"), ("/outbox", "%2Foutbox")]
    {
        for cookie in ["", "Cookie: dormouse_session=x\r\n", "Cookie: dormouse_session=\r\n"] {
            let answer = ask(&server, &format!("GET {target}"), cookie, "").await;
            let location = format!("/sign-in?next={next}");
            assert_eq!((answer.status, answer.header("location")), (303, Some(location.as_str())));
        }
    }
    let form = ask(&server, "GET /sign-in?next=%2Fusage", "", "").await;
    form.has("value=\"/usage\"").has("<label for=\"token\">Token</label>");
    let wrong = ask(&server, "POST /sign-in", "", "token=dormouse_x_y&next=/usage").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    wrong.has("role=\"alert\"").has("value=\"/usage\"").lacks("dormouse_x_y");
    assert_eq!(ask(&server, "GET /api/usage", &sign_in(&server, &server.read).await, "").await.status, 401);
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_after_half_a_day() {
    let server = Server::start(Store::Host, limits()).await;
    let cookie = sign_in(&server, &server.write).await;
    get(&server, "/", &cookie).await;
    let id = server.write.split('_').nth(1).expect("an id");
    let path = server.path().to_owned();
    assert!(Editor::open(&path).expect("a ledger").revoke_token(id, BEGAN).expect("a ledger"));
    assert_eq!(ask(&server, "GET /", &cookie, "").await.status, 303);

    let mut reader = dormouse_ledger::Reader::open(&path).expect("a ledger");
    let key = reader.cursor_key().expect("a key");
    let id = server.read.split('_').nth(1).expect("an id");
    for (until_unix_ns, status) in [(BEGAN + 10 * HOUR + 1, 200), (BEGAN + 10 * HOUR, 303)] {
        let session = super::session::Session { token_id: id.to_owned(), until_unix_ns };
        let value = key.seal("session", &session).expect("JSON");
        let cookie = format!("Cookie: dormouse_session={value}\r\n");
        assert_eq!(ask(&server, "GET /", &cookie, "").await.status, status);
        // What was signed for anything else is no session.
        let other = format!("Cookie: dormouse_session={}\r\n", key.seal("else", &session).expect("JSON"));
        assert_eq!(ask(&server, "GET /", &other, "").await.status, 303);
    }
    let out = ask(&server, "POST /sign-out", &cookie, "").await;
    assert_eq!(out.status, 303);
    assert!(out.header("set-cookie").expect("a cookie").starts_with("dormouse_session=; Path=/; Max-Age=0;"));
}

#[tokio::test]
async fn pages_show_the_orgs_sandboxes_and_no_other_orgs() {
    let server = Server::start(Store::Host, limits()).await;
    let cookie = sign_in(&server, &server.read).await;
    let home = get(&server, "/", &cookie).await;
    for text in
        ["/sandboxes/sb-0\"", "/sandboxes/sb-3\"", "team=red", "36\u{202f}000.000", "Used on 1 of 31 days"]
    {
        home.has(text);
    }
    let theirs = sign_in(&server, &server.other).await;
    get(&server, "/", &theirs).await.has("sb-0").lacks("sb-1").lacks("red");
    let answer = ask(&server, "GET /sandboxes/sb-1", &theirs, "").await;
    assert_eq!(answer.status, 404);
    answer.has("SANDBOX_NOT_FOUND").has("<h1>No such sandbox</h1>").has("Your org has no sandbox");
}

#[tokio::test]
async fn a_sandbox_is_shown_as_a_picture_and_as_a_table_with_reasons() {
    let server = Server::start(Store::Host, limits()).await;
    let cookie = sign_in(&server, &server.read).await;
    let page = get(&server, "/sandboxes/sb-1", &cookie).await;
    for text in [
        "<svg class=\"picture\" role=\"img\"",
        "1 stretches of its life",
        "running at 1GiB from 2026-03-01 00:00:00.000 for 10h 00m; billed: everything",
        "1–10",
        "it was found",
        "goes on",
        // 10 hours of 1 GiB, by eye and exactly.
        "36\u{202f}000.000",
        "38654705664000000000000",
        "This token may only read",
    ] {
        page.has(text);
    }
    page.lacks("<form class=\"tags\"");
    let hour = get(&server, "/sandboxes/sb-1?last=1h", &cookie).await;
    hour.has("3\u{202f}600.000").has("href=\"?last=1h\" aria-current=\"true\"");
}

#[tokio::test]
async fn only_a_form_of_this_site_and_a_token_for_writing_change_tags() {
    let server = Server::start(Store::Host, limits()).await;
    let target = "POST /sandboxes/sb-0/tags";
    let body = "key=team&value=blue&key=env&value=a+%26+b&key=&value=";
    let readers = sign_in(&server, &server.read).await;
    let refused = ask(&server, target, &readers, body).await;
    assert_eq!(refused.status, 403);
    refused.has("The token may only read");
    let cookie = sign_in(&server, &server.write).await;
    for foreign in ["Sec-Fetch-Site: cross-site\r\n", "Origin: http://evil.example\r\n", "Origin: null\r\n"] {
        assert_eq!(ask(&server, target, &format!("{cookie}{foreign}"), body).await.status, 403);
        assert_eq!(
            ask(&server, "POST /sign-in", foreign, &format!("token={}", server.write)).await.status,
            403
        );
    }
    assert_eq!(ask(&server, target, "", body).await.header("location"), Some("/sign-in?next=%2F"));
    get(&server, "/sandboxes/sb-0", &cookie).await.lacks("blue");
    let ours = format!("{cookie}Sec-Fetch-Site: same-origin\r\nOrigin: http://here\r\n");
    let saved = ask(&server, target, &ours, body).await;
    assert_eq!((saved.status, saved.header("location")), (303, Some("/sandboxes/sb-0?saved=tags#tags")));
    let page = get(&server, "/sandboxes/sb-0?saved=tags", &cookie).await;
    page.has("Tags are saved.").has("value=\"blue\"").has("value=\"a &amp; b\"");
    let other = sign_in(&server, &server.other).await;
    assert_eq!(ask(&server, "POST /sandboxes/sb-1/tags", &other, body).await.status, 404);
}

#[tokio::test]
async fn tags_that_are_refused_are_shown_again_with_the_reason() {
    let server = Server::start(Store::Host, limits()).await;
    let cookie = sign_in(&server, &server.write).await;
    for (body, why) in [
        ("key=a&value=1&key=a&value=typed", "is given twice"),
        ("key=dm:a&value=typed", "dm:"),
        ("key=&value=typed", "key"),
        ("key=%3Cb%3E&value=typed", "&lt;b&gt;"),
    ] {
        let answer = ask(&server, "POST /sandboxes/sb-1/tags", &cookie, body).await;
        assert_eq!(answer.status, 400, "{body}");
        answer.has("role=\"alert\"").has(why).has("value=\"typed\"").lacks("<b>");
    }
    get(&server, "/sandboxes/sb-1", &cookie).await.has("value=\"red\"").lacks("typed");
}

#[tokio::test]
async fn usage_by_tag_is_the_api_s_to_the_last_digit() {
    let server = Server::start(Store::Host, limits()).await;
    let cookie = sign_in(&server, &server.write).await;
    let page = get(&server, "/usage", &cookie).await;
    // One sandbox of four is tagged; each has had 1 GiB for 10 hours.
    for text in [
        "value=\"tag:team\" selected",
        ">red</th>",
        "untagged",
        "38654705664000000000000",
        "154618822656000000000000",
    ] {
        page.has(text);
    }
    let by_sandbox = get(&server, "/usage?groupBy=sandbox&last=24h", &cookie).await;
    by_sandbox
        .has("<option value=\"24h\" selected>")
        .has("/sandboxes/sb-3\"")
        .has(">10:00</text>")
        .lacks("untagged");
}

#[tokio::test]
async fn a_page_of_usage_goes_on_where_the_one_before_it_ended() {
    let server = Server::start(Store::Host, limits()).await;
    let mut editor = Editor::open(server.path()).expect("a ledger");
    for (id, value) in [("sb-0", "a,b"), ("sb-2", "")] {
        let tags = BTreeMap::from([("team".to_owned(), value.to_owned())]);
        let set = TagSet { org: "a".to_owned(), sandbox: id.to_owned(), tags, at_unix_ns: BEGAN };
        editor.set_tags(&set).expect("a sandbox");
    }
    let cookie = sign_in(&server, &server.write).await;
    // Values that a filter cannot say are among the others, and the sum is whole.
    let page = get(&server, "/usage?last=24h", &cookie).await;
    page.has("a,b").has("others</th>").has("144\u{202f}000.000");
    for wrong in ["/usage?cursor=x", "/usage?groupBy=x", "/?cursor=x", "/usage?from=x&to=y"] {
        let answer = ask(&server, &format!("GET {wrong}"), &cookie, "").await;
        assert_eq!(answer.status, 400, "{wrong}");
        answer.has("<!DOCTYPE html>").has("<h1>Invalid ");
    }
}

#[tokio::test]
async fn the_outbox_shows_lag_and_nothing_of_what_failed_or_where() {
    let server = Server::start(Store::Host, limits()).await;
    let cookie = sign_in(&server, &server.other).await;
    get(&server, "/outbox", &cookie).await.has("No sink is configured");
    let names = SinkNames { names: vec!["fleet".to_owned()], at_unix_ns: BEGAN };
    server
        .writer
        .as_ref()
        .expect("a host's")
        .writer()
        .write(Class::Fact, vec![Record::Sinks(names)])
        .expect("a ledger");
    let page = get(&server, "/outbox", &cookie).await;
    page.has("fleet").has("behind").has("9h 00m old").lacks("sb-1");
}

#[tokio::test]
async fn pages_allow_no_script_and_no_other_site_and_are_nobody_elses() {
    let server = Server::start(Store::Host, limits()).await;
    let cookie = sign_in(&server, &server.read).await;
    for target in ["/", "/sign-in", "/usage", "/sandboxes/sb-1", "/sandboxes/none", "/outbox", "/style.css"] {
        let answer = ask(&server, &format!("GET {target}"), &cookie, "").await;
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'")
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{target}");
        assert_eq!(answer.header("referrer-policy"), Some("same-origin"), "{target}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{target}");
        answer.lacks("<script").lacks("style=\"").lacks("http:").lacks("https:");
    }
    assert_eq!(ask(&server, "GET /api/openapi.json", "", "").await.header("content-security-policy"), None);
    assert_eq!(ask(&server, "DELETE /usage", &cookie, "").await.status, 405);
}

#[tokio::test]
async fn what_an_org_calls_things_is_text_on_every_page() {
    let server = Server::start(Store::Host, limits()).await;
    let path = server.path().to_owned();
    let mut editor = Editor::open(&path).expect("a ledger");
    let evil = "\"><script>alert(1)</script>";
    let tags = BTreeMap::from([("team".to_owned(), evil.to_owned())]);
    let set = TagSet { org: "a".to_owned(), sandbox: "sb-0".to_owned(), tags, at_unix_ns: BEGAN };
    editor.set_tags(&set).expect("a sandbox");
    let token = editor.create_token("a", Role::Write, BEGAN).expect("a token").1;
    let cookie = sign_in(&server, &token).await;
    for target in ["/", "/sandboxes/sb-0", "/usage?groupBy=tag:team"] {
        get(&server, target, &cookie).await.has("&lt;script&gt;alert(1)").lacks("<script");
    }
}

#[tokio::test]
async fn a_session_asks_no_more_than_its_token_may() {
    let server =
        Server::start(Store::Host, super::super::Limits { requests_per_second: 2, ..limits() }).await;
    let cookie = sign_in(&server, &server.read).await;
    for _ in 0..2 {
        get(&server, "/outbox", &cookie).await;
    }
    let answer = ask(&server, "GET /outbox", &cookie, "").await;
    assert_eq!(answer.status, 429);
    answer.has("RATE_LIMITED").has("<!DOCTYPE html>");
}
