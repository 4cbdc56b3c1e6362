//! A browser without a window: what a page looks like, and whom it asks for something.

mod picture;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use netloss_lab::host::needs::Needs;
use netloss_lab::host::{command, paths};
use serde::Deserialize;

pub use self::picture::Picture;

/// Debian's, without all that only a window needs; and letters.
const NEEDS: Needs = Needs::new("browser", include_str!("browser.needs"));
const PROGRAM: &str = "chromium-headless-shell";
/// In seconds; a page takes one.
const LIMIT: &str = "120";
/// Runs in a page around the one that is looked at.
const LOOK: &str = include_str!("look.js");

/// The browser, installed.
#[derive(Debug, Clone, Copy)]
pub struct Browser(());

/// How a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// In pixels of CSS.
    pub width: u32,
    /// In pixels of CSS.
    pub height: u32,
    /// What its reader prefers.
    pub scheme: Scheme,
    /// Pixels of the screen for one of CSS.
    pub scale: f64,
}

/// What a reader prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Dark letters on a light page.
    Light,
    /// Light letters on a dark page.
    Dark,
}

/// What a page is found to be.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// The height of the whole page.
    pub height: u32,
    /// By how much it is wider than the window, in pixels.
    pub overflow: u32,
    /// What sticks out of the window.
    pub sticking_out: Vec<String>,
    /// Behind everything.
    pub background: String,
    /// Of letters.
    pub ink: String,
    /// The smallest letters, in pixels as they are shown.
    pub smallest: f64,
    /// The least contrast of letters with what is behind them, as WCAG has it: from 1 to 21.
    pub contrast: f64,
    /// The letters that have it.
    pub faintest: String,
    /// Whom the browser asked for something, other than the page itself.
    #[serde(skip)]
    pub asked: BTreeSet<String>,
}

impl Browser {
    /// The browser, if the machine has it.
    ///
    /// # Errors
    ///
    /// If it has not.
    pub fn installed() -> Result<Self> {
        NEEDS.require()?;
        Ok(Self(()))
    }

    /// Looks at a page.
    ///
    /// # Errors
    ///
    /// If the browser fails, or the page is none.
    pub fn look(self, page: &str, view: &View) -> Result<Look> {
        let scratch = Scratch::new()?;
        let around = scratch.0.join("around.html");
        let inside = page.replace('&', "&amp;").replace('"', "&quot;");
        // A window cannot be as narrow as one likes; a frame can.
        let text = format!(
            "<!doctype html><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\">\
             <iframe style=\"border:0;width:{}px;height:{}px\" srcdoc=\"{inside}\"></iframe><pre></pre><script>{LOOK}</script>",
            view.width, view.height
        );
        fs::write(&around, text)?;
        let proxy = Proxy::start()?;
        let wide = View { width: view.width.max(500) + 100, ..*view };
        let mut browser = command(&around, &wide);
        browser.arg("--dump-dom").arg(format!("--proxy-server=127.0.0.1:{}", proxy.port)).arg("--proxy-bypass-list=<-loopback>");
        let dom = command::output(browser.arg(url(&around)))?;
        let asked = proxy.stop();
        let found = dom.rsplit_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>")).map(|(found, _)| found);
        let found = STANDARD.decode(found.context("the page around the page is gone")?)?;
        let look: Look = serde_json::from_slice(&found).with_context(|| format!("{dom:?} says nothing of the page"))?;
        Ok(Look { asked, ..look })
    }

    /// Takes a picture of the page in a file, as PNG.
    ///
    /// # Errors
    ///
    /// If the browser fails or there is no picture.
    pub fn screenshot(self, page: &Path, view: &View, picture: &Path) -> Result<Picture> {
        let mut browser = command(page, view);
        browser.arg(format!("--screenshot={}", picture.display())).arg(url(page));
        command::run(&mut browser)?;
        Picture::read(picture)
    }
}

fn command(page: &Path, view: &View) -> Command {
    // Coreutils' timeout: a browser that hangs takes no test with it.
    let mut browser = Command::new("timeout");
    browser.args([
        LIMIT,
        PROGRAM,
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--no-first-run",
    ]);
    browser.arg(format!("--window-size={},{}", view.width, view.height)).arg(format!("--force-device-scale-factor={}", view.scale));
    // As the enum of Blink counts: there is no flag of its own.
    let scheme = match view.scheme {
        Scheme::Dark => 0,
        Scheme::Light => 1,
    };
    browser.arg(format!("--blink-settings=preferredColorScheme={scheme}")).current_dir(page.parent().unwrap_or(page));
    browser
}

fn url(page: &Path) -> String {
    format!("file://{}", page.display())
}

/// A folder for a moment.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("browser-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = paths::lab_dir().join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(fs::canonicalize(folder)?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Whatever the browser asks somebody for, it asks here, and gets nothing.
struct Proxy {
    port: u16,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<BTreeSet<String>>,
}

impl Proxy {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let is_over = Arc::new(AtomicBool::new(false));
        let is_told = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut asked = BTreeSet::new();
            for stream in listener.incoming().flatten() {
                if is_told.load(Ordering::SeqCst) {
                    break;
                }
                asked.insert(first_line(&stream));
            }
            asked
        });
        Ok(Self { port, is_over, thread })
    }

    fn stop(self) -> BTreeSet<String> {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        self.thread.join().unwrap_or_default()
    }
}

fn first_line(stream: &TcpStream) -> String {
    let mut line = String::new();
    drop(stream.set_read_timeout(Some(Duration::from_secs(5))).and_then(|()| BufReader::new(stream).read_line(&mut line)));
    line.trim().to_owned()
}

impl Look {
    /// What a person cannot read on this page, or would rather not have.
    ///
    /// # Errors
    ///
    /// If there is something.
    pub fn is_readable(&self) -> Result<()> {
        ensure!(self.overflow == 0 && self.sticking_out.is_empty(), "wider than the window: {:?}", self.sticking_out);
        ensure!(self.smallest >= 11.0, "letters of {} pixels", self.smallest);
        ensure!(self.contrast >= 4.5, "a contrast of {} at {:?}", self.contrast, self.faintest);
        ensure!(self.asked.is_empty(), "it asks others: {:?}", self.asked);
        Ok(())
    }
}
