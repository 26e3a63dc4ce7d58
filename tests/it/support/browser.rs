//! A real browser, headless: Chromium behind chromedriver, spoken to in WebDriver (W3C).

use std::{path::PathBuf, process::Stdio, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{eventually, free_address};

/// What the element's reference is called in WebDriver's JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// A small phone, in CSS pixels.
pub const PHONE: (u32, u32) = (360, 740);

/// One window of a phone's size, without JavaScript in its pages. Closed when dropped.
pub struct Browser {
    session: String,
    client: Client,
    _driver: Child,
}

/// An element of the page.
#[derive(Clone, Debug)]
pub struct Element(String);

impl Browser {
    /// `None`, and a line that says so, where this machine has no Chromium. With `BACKROOM_TEST_CHROMIUM=required` that is a failure:
    /// who has installed it wants the test run.
    pub async fn on_a_phone(languages: &str) -> Option<Self> {
        let Some((driver, chromium)) = find("chromedriver").zip(find("chromium").or_else(|| find("google-chrome")))
        else {
            let required = std::env::var("BACKROOM_TEST_CHROMIUM").is_ok_and(|value| value == "required");
            assert!(
                !required,
                "there is no chromedriver and chromium on the PATH, and BACKROOM_TEST_CHROMIUM wants them"
            );
            eprintln!("skipped: there is no Chromium on this machine (Debian: chromium and chromium-driver)");
            return None;
        };
        let address = free_address();
        let process = Command::new(driver)
            .arg(format!("--port={}", address.port()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts");
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
        let base = format!("http://{address}");
        eventually("chromedriver is ready", async || {
            let status = client.get(format!("{base}/status")).send().await.ok()?.json::<Value>().await.ok()?;
            (status["value"]["ready"] == true).then_some(())
        })
        .await;
        let (width, height) = PHONE;
        let options = json!({
            "binary": chromium,
            // The sandbox needs rights that containers and root do not have; the pages are our own.
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-proxy-server"],
            "prefs": { "profile.managed_default_content_settings.javascript": 2, "intl.accept_languages": languages },
            // With touch, and without JavaScript, chromedriver's click never returns.
            "mobileEmulation": { "deviceMetrics": { "width": width, "height": height, "pixelRatio": 2.0, "touch": false } },
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let made = client.post(format!("{base}/session")).json(&wanted).send().await.expect("chromedriver answers");
        let made: Value = made.json().await.expect("JSON");
        let id = made["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        Some(Self { session: format!("{base}/session/{id}"), client, _driver: process })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.client.request(method, format!("{}{path}", self.session));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap_or_else(|e| panic!("{path} was not answered: {e}"));
        let (ok, mut answer) = (answer.status().is_success(), answer.json::<Value>().await.expect("JSON"));
        assert!(ok, "{path}: {answer}");
        answer["value"].take()
    }

    pub async fn open(&self, url: &str) {
        self.ask(Method::POST, "/url", Some(json!({ "url": url }))).await;
    }

    /// The one element that the CSS selector finds.
    pub async fn one(&self, selector: &str) -> Element {
        let mut found = self.all(selector).await;
        assert_eq!(found.len(), 1, "{selector} in {}", self.source().await);
        found.remove(0)
    }

    pub async fn all(&self, selector: &str) -> Vec<Element> {
        let found =
            self.ask(Method::POST, "/elements", Some(json!({ "using": "css selector", "value": selector }))).await;
        let found = found.as_array().expect("a list").iter();
        found.map(|element| Element(element[ELEMENT].as_str().expect("an element").to_owned())).collect()
    }

    /// What a person reads in the element.
    pub async fn text(&self, selector: &str) -> String {
        let element = self.one(selector).await;
        self.ask(Method::GET, &format!("/element/{}/text", element.0), None).await.as_str().expect("text").to_owned()
    }

    pub async fn attribute(&self, selector: &str, name: &str) -> Option<String> {
        let element = self.one(selector).await;
        let value = self.ask(Method::GET, &format!("/element/{}/attribute/{name}", element.0), None).await;
        value.as_str().map(str::to_owned)
    }

    pub async fn type_into(&self, selector: &str, text: &str) {
        let element = self.one(selector).await;
        self.ask(Method::POST, &format!("/element/{}/value", element.0), Some(json!({ "text": text }))).await;
    }

    /// Clicks, and returns when the page that follows has loaded.
    pub async fn click(&self, selector: &str) {
        let element = self.one(selector).await;
        self.ask(Method::POST, &format!("/element/{}/click", element.0), Some(json!({}))).await;
        // The driver waits for a page that has begun to load. A form's answer may take longer to begin.
        let url = format!("{}/element/{}/enabled", self.session, element.0);
        eventually("the next page", async || {
            let asked = self.client.get(&url).send().await.ok()?;
            (!asked.status().is_success()).then_some(())
        })
        .await;
    }

    pub async fn title(&self) -> String {
        self.ask(Method::GET, "/title", None).await.as_str().expect("text").to_owned()
    }

    pub async fn source(&self) -> String {
        self.ask(Method::GET, "/source", None).await.as_str().expect("text").to_owned()
    }

    /// Left and right edge, and height, of the element, in CSS pixels.
    pub async fn place(&self, element: &Element) -> (f64, f64, f64) {
        let rect = self.ask(Method::GET, &format!("/element/{}/rect", element.0), None).await;
        let number = |name: &str| rect[name].as_f64().expect("a number");
        (number("x"), number("x") + number("width"), number("height"))
    }

    /// Nothing reaches beyond the phone's edges, and what is touched is large enough for a finger (WCAG 2.2, 2.5.8: 24 pixels).
    pub async fn fits_the_phone(&self) {
        let source = self.source().await;
        for element in self.all("body, body *").await {
            let (left, right, _) = self.place(&element).await;
            assert!(
                left >= 0.0 && right <= f64::from(PHONE.0),
                "something spans {left} to {right} of {} in {source}",
                PHONE.0
            );
        }
        for touched in self.all("button, input:not([hidden])").await {
            let (_, _, height) = self.place(&touched).await;
            assert!(height >= 40.0, "something to touch is {height} pixels high in {source}");
        }
    }

    /// What the window shows, as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let shown = self.ask(Method::GET, "/screenshot", None).await;
        BASE64_STANDARD.decode(shown.as_str().expect("text")).expect("base64")
    }

    /// Closes the window and ends the browser.
    pub async fn close(self) {
        self.ask(Method::DELETE, "", None).await;
    }
}

/// A program on the PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
