//! The report as a page, in a browser: on a phone and on a desk, by day and by night.

use crate::cli::{brought, controller, ended, injected, netloss, stage};
use crate::world::{World, spec};
use netloss_api::Phase;
use netloss_lab_pictures::browser::{Browser, Look, Scheme, View};
use serde_json::json;
use std::path::Path;

const PHONE: View = View { width: 360, height: 800, scheme: Scheme::Light, scale: 1.0 };
const DESK: View = View { width: 1200, height: 800, scheme: Scheme::Light, scale: 1.0 };
/// As long as the name of a pod may be that is a host's too.
const LONG: &str = "recommendations-of-things-nobody-needs-6f7c9d7b8b-long-name-x7k";

async fn browser() -> Browser {
    tokio::task::spawn_blocking(Browser::installed).await.unwrap().expect("a browser")
}

async fn look(browser: Browser, page: &str, view: View) -> Look {
    let page = page.to_owned();
    tokio::task::spawn_blocking(move || browser.look(&page, &view)).await.unwrap().unwrap()
}

async fn report(world: &World, name: &str) -> String {
    let report = netloss(world, &["report", name, "-o", "html"]).await;
    assert_eq!(report.code, 0, "{report:?}");
    report.stdout
}

/// What the checks of the other tests look for, they would find.
#[tokio::test]
async fn a_page_that_cannot_be_read_is_noticed() {
    let browser = browser().await;
    let bad = "<!doctype html><body style=\"background:#fff\"><div style=\"width:900px\">wide</div><img src=\"http://elsewhere.invalid/x.png\">\
               <p style=\"font-size:6px;color:#ccc\">small &amp; \"faint\"</p></body>";
    let found = look(browser, bad, PHONE).await;
    assert!(found.overflow >= 540 && found.sticking_out.iter().any(|what| what == "div.: wide"), "{found:?}");
    assert!(found.smallest < 7.0 && found.contrast < 2.0 && found.faintest == "p.: small & \"faint\"", "{found:?}");
    assert!(found.asked.iter().any(|asked| asked.contains("elsewhere.invalid/x.png")), "{found:?}");
    let dark = look(browser, bad, View { scheme: Scheme::Dark, ..PHONE }).await;
    assert_eq!((found.background.as_str(), dark.background.as_str()), ("rgb(255, 255, 255)", "rgb(255, 255, 255)"));
}

#[tokio::test]
async fn a_report_can_be_read_on_a_phone_and_in_the_dark() {
    let world = stage("cli-page").await;
    world.pod_with(LONG, json!({ "labels": { "app": "web" } }), json!({})).await;
    world.pod_with("bad", json!({ "labels": { "app": "bad" } }), json!({})).await;
    let _controller = controller(&world).await;
    let long = "an-experiment-with-a-name-that-somebody-took-a-lot-of-time-for";
    world.apply(long, spec(json!({}))).await.unwrap();
    let entry = brought(&world, long).await;
    let browser = browser().await;
    let under_way = report(&world, long).await;
    assert!(under_way.contains("10.2% (9.0-11.7)"), "what the agent counts at present: {under_way}");
    look(browser, &under_way, PHONE).await.is_readable().unwrap();

    ended(&world, &entry).await;
    super::cli::until("it is over", async || world.status(long).await.phase == Some(Phase::Completed)).await;
    let page = report(&world, long).await;
    for view in [PHONE, DESK] {
        let light = look(browser, &page, view).await;
        let dark = look(browser, &page, View { scheme: Scheme::Dark, ..view }).await;
        light.is_readable().unwrap();
        dark.is_readable().unwrap();
        assert!(light.background != dark.background && light.ink != dark.ink, "{light:?} {dark:?}");
    }
    let file = World::dir().join("cli-page.html");
    std::fs::write(&file, &page).unwrap();
    let shot = |view: View, name: &str| browser.screenshot(&file, &view, &World::dir().join(name)).unwrap();
    let height = look(browser, &page, PHONE).await.height;
    let picture = shot(View { height, ..PHONE }, "cli-page.png");
    assert_eq!((picture.width, picture.height), (360, height));
    assert!(picture.colours() > 50, "a page with nothing on it");
    let blank = World::dir().join("cli-page-blank.html");
    std::fs::write(&blank, "<!doctype html>").unwrap();
    let nothing = browser.screenshot(Path::new(&blank), &PHONE, &World::dir().join("cli-page-blank.png")).unwrap();
    assert_eq!(nothing.colours(), 1);

    world.apply("bad", spec(json!({ "selector": { "app": "bad" } }))).await.unwrap();
    let entry = injected(&world, "bad").await;
    world.set_state(&entry, json!({ "terminated": { "exitCode": 4 } })).await;
    super::cli::until("it is over", async || world.status("bad").await.phase == Some(Phase::Failed)).await;
    let failed = report(&world, "bad").await;
    assert!(failed.contains("failure") && failed.contains("Nothing was counted."), "{failed}");
    look(browser, &failed, PHONE).await.is_readable().unwrap();
}
