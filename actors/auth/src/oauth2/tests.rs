use std::collections::VecDeque;

use futures_util::future::join_all;
use watershed_stage::Settings as _;

use super::*;

/// Answers in this order, after a while; the last one again and again. Notes what was asked.
#[derive(Default)]
struct Server {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<(String, Option<String>)>>,
}

type Answer = Result<(u16, String), String>;

struct Endpoint(Arc<Server>);

impl TokenEndpoint for Endpoint {
    fn post(
        &self,
        form: Bytes,
        authorization: Option<HeaderValue>,
    ) -> LocalBoxFuture<'_, Result<(StatusCode, Bytes), String>> {
        async move {
            let form = String::from_utf8(form.to_vec()).unwrap();
            let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
            self.0.asked.lock().push((form, authorization));
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut answers = self.0.answers.lock();
            let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
            answer.unwrap().map(|(status, body)| (StatusCode::from_u16(status).unwrap(), body.into()))
        }
        .boxed_local()
    }
}

fn settings(more: &str) -> Settings {
    let text =
        format!("client_id = 'me'\nclient_secret = 's3cret'\ntoken_url = 'https://auth/token'\n{more}");
    let settings: Settings = toml::from_str(&text).unwrap();
    assert_eq!(settings.check(), []);
    settings
}

fn client(more: &str, answers: impl IntoIterator<Item = Answer>) -> (OAuth2, Arc<Server>) {
    let server = Arc::new(Server { answers: Mutex::new(answers.into_iter().collect()), ..Server::default() });
    (OAuth2::new(&settings(more), Box::new(Endpoint(server.clone()))).unwrap(), server)
}

fn good(token: &str, life: u32) -> Answer {
    Ok((200, format!(r#"{{"access_token":"{token}","token_type":"bearer","expires_in":{life}}}"#)))
}

async fn sent(client: &OAuth2) -> Result<String, String> {
    let headers = client.headers(&Origin::default()).await.map_err(|error| error.to_string())?;
    assert_eq!((headers.len(), &headers[0].0), (1, &AUTHORIZATION));
    assert!(headers[0].1.is_sensitive());
    Ok(headers[0].1.to_str().unwrap().to_owned())
}

fn rejected(client: &OAuth2, sent: &str) -> bool {
    client.rejected(&HeaderMap::from_iter([(AUTHORIZATION, sent.parse().unwrap())]))
}

async fn after(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_for_once_and_renewed_before_it_expires() {
    let (client, server) = client("", [good("one", 3600), good("two", 3600)]);
    for value in join_all((0..20).map(|_| sent(&client))).await {
        assert_eq!(value.unwrap(), "Bearer one");
    }
    after(3600 - 300 - 1).await;
    assert_eq!(sent(&client).await.unwrap(), "Bearer one");
    assert_eq!(server.asked.lock().len(), 1);
    after(1).await;
    assert_eq!(sent(&client).await.unwrap(), "Bearer two");
    assert_eq!(server.asked.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_short_lived_token_is_renewed_in_the_middle_of_its_life() {
    let (client, server) = client("", [good("one", 60), good("two", 60)]);
    sent(&client).await.unwrap();
    after(29).await;
    assert_eq!(sent(&client).await.unwrap(), "Bearer one");
    after(1).await;
    assert_eq!(sent(&client).await.unwrap(), "Bearer two");
    assert_eq!(server.asked.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_rejected_is_asked_for_anew() {
    let (client, server) = client("", [good("one", 3600), good("two", 3600)]);
    sent(&client).await.unwrap();
    assert!(rejected(&client, "Bearer one"));
    assert_eq!(sent(&client).await.unwrap(), "Bearer two");
    assert!(rejected(&client, "Bearer one"), "the next attempt is made with another");
    assert_eq!(sent(&client).await.unwrap(), "Bearer two");
    assert_eq!(server.asked.lock().len(), 2);
    assert!(!rejected(&client, "Bearer two"), "new ones do not help");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_holds_up_nobody_while_the_old_token_is_good() {
    let (client, server) = client("timeout = '50ms'", []);
    let old = br#"{"access_token":"old","expires_in":100}"#;
    client.state.lock().token = Token::read(old, Instant::now(), Duration::ZERO).ok();
    client.state.lock().token.as_mut().unwrap().renew_at = Some(Instant::now());
    let mut first = Box::pin(sent(&client));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert_eq!(sent(&client).now_or_never().unwrap().unwrap(), "Bearer old");
    // Its export ends before the server answers: that is a failure too.
    drop(first);
    assert_eq!(sent(&client).now_or_never().unwrap().unwrap(), "Bearer old");
    assert_eq!(server.asked.lock().len(), 1);
    after(10).await;
    assert_eq!(sent(&client).await.unwrap(), "Bearer old");
    assert_eq!(server.asked.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_answers_for_all_who_waited_and_is_then_tried_again() {
    let (client, server) = client("", [Err("connection refused".into()), good("one", 3600)]);
    for value in join_all((0..20).map(|_| sent(&client))).await {
        assert_eq!(value.unwrap_err(), "no token from `token_url`: connection refused");
    }
    assert_eq!(server.asked.lock().len(), 1);
    after(1).await;
    assert_eq!(sent(&client).await.unwrap(), "Bearer one");
}

#[tokio::test(start_paused = true)]
async fn while_no_new_token_is_to_be_had_the_old_one_is_used_to_its_end() {
    let (client, _) = client("", [good("one", 3600), Err("connection refused".into())]);
    sent(&client).await.unwrap();
    after(3600 - 10).await;
    assert_eq!(sent(&client).await.unwrap(), "Bearer one");
    after(10).await;
    assert!(sent(&client).await.unwrap_err().contains("connection refused"));
}

#[tokio::test(start_paused = true)]
async fn id_and_secret_stand_in_the_header_and_where_that_is_refused_in_the_body() {
    let refused = Ok((401, r#"{"error":"invalid_client"}"#.into()));
    let more = "scopes = ['read', 'write']\nendpoint_params = { audience = 'x', r = ['1', '2'] }";
    let (client, server) = client(more, [refused, good("one", 60), good("two", 60)]);
    assert_eq!(sent(&client).await.unwrap(), "Bearer one");
    assert!(rejected(&client, "Bearer one"));
    assert_eq!(sent(&client).await.unwrap(), "Bearer two");
    let form = "grant_type=client_credentials&scope=read+write&audience=x&r=1&r=2";
    let with_secret = format!("{form}&client_id=me&client_secret=s3cret");
    let header = format!("Basic {}", STANDARD.encode("me:s3cret"));
    let asked = server.asked.lock();
    assert_eq!(*asked, [(form.to_owned(), Some(header)), (with_secret.clone(), None), (with_secret, None)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_is_said_without_the_secret() {
    let long = format!(r#"{{"error":"{}"}}"#, "e".repeat(65));
    for (status, body, expected) in [
        (
            400,
            r#"{"error":"invalid_scope","error_description":"s3cret"}"#,
            "the server answered 400 Bad Request: invalid_scope",
        ),
        (500, "s3cret", "the server answered 500 Internal Server Error"),
        (403, r#"{"error":"s3cret is wrong"}"#, "the server answered 403 Forbidden"),
        (403, &long, "the server answered 403 Forbidden"),
        (200, "s3cret", "the answer is no JSON"),
        (200, "[]", "the answer has no `access_token`"),
        (200, r#"{"access_token":""}"#, "the answer has no `access_token`"),
        (200, r#"{"access_token":"s3\ncret"}"#, "the token has characters that no header may hold"),
    ] {
        let (client, _) = client("", [Ok((status, body.to_owned()))]);
        assert_eq!(sent(&client).await.unwrap_err(), format!("no token from `token_url`: {expected}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let (client, _) = client("timeout = '50ms'", [good("one", 60)]);
    assert_eq!(sent(&client).await.unwrap_err(), "no token from `token_url`: no answer within 50ms");
}

#[test]
fn lives_are_read_as_servers_write_them() {
    let now = Instant::now();
    let life = |text: &str| {
        let body = format!(r#"{{"access_token":"a"{text}}}"#);
        let token = Token::read(body.as_bytes(), now, Duration::ZERO).ok().unwrap();
        token.expires_at().map(|at| (at - now).as_secs())
    };
    assert_eq!(life(""), None);
    assert_eq!(life(r#","expires_in":0"#), None);
    assert_eq!(life(r#","expires_in":-5"#), None);
    assert_eq!(life(r#","expires_in":60"#), Some(60));
    assert_eq!(life(r#","expires_in":"60""#), Some(60));
    assert_eq!(life(r#","expires_in":1e300"#), Some(315_360_000));
    assert_eq!(life(r#","expires_in":"inf""#), Some(315_360_000));
    assert_eq!(life(r#","expires_in":"soon""#), None);
}

#[test]
fn settings_are_checked_with_otelcols_words() {
    let keys = |text: &str| -> Vec<String> {
        let settings: Settings = toml::from_str(text).unwrap();
        settings.check().into_iter().map(|error| error.key).collect()
    };
    assert_eq!(keys(""), ["client_id", "client_secret", "token_url"]);
    let text = "client_id = 'a'\nclient_id_file = 'b'\nclient_secret_file = 'c'\ntoken_url = 'auth/token'\n\
                timeout = '0s'\nendpoint_params = { scope = 'x' }";
    assert_eq!(keys(text), ["client_id_file", "token_url", "timeout", "endpoint_params.scope"]);
}
