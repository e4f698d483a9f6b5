//! More sandboxes told to hibernate than are saved at a time: nobody is held up by a sick one. A hundred of them are in
//! `tests/e2e/crowd.rs`.

use std::time::Duration;

use dormouse_tests::scripted::{Does, Options, Order, Rule};

use crate::scene::{Scene, causes};

#[tokio::test]
async fn whoever_waits_for_a_turn_to_be_saved_runs_on_and_its_caller_is_told_so() {
    let scene = Scene::with("[hibernation]\nat_once = 1\n").await;
    let slow = scene.sandbox("slow", &Options { save_ms: 3_000, ..Options::default() }).await;
    let next = scene.sandbox("next", &Options::default()).await;
    let saved = scene.agent.cli(&["hibernate", "slow", "--json"]);
    let meanwhile = async {
        slow.asked("migrate").await.unwrap();
        let hasty = ["hibernate", "next", "--request-id", "r1", "--deadline", "200ms"];
        let error = scene.refused(&hasty, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
        assert!(error["message"].as_str().unwrap().contains("waiting for its turn to be saved"), "{error}");
        let view = scene.view("next").await;
        assert_eq!(
            (&view["state"], next.times_asked("stop").await.unwrap()),
            (&"running".into(), 0),
            "{view}"
        );
        // Nobody else's: what another monitor does meanwhile is what it is.
        for (run_state, event) in [("paused", "STOP"), ("running", "RESUME")] {
            let order = Order::Become { run_state: run_state.to_owned(), event: event.to_owned() };
            next.order(&order).await.unwrap();
            scene.until("next", |view| view["state"] == run_state).await;
        }
        scene.does(&["hibernate", "next", "--request-id", "r1"]).await
    };
    let (slow_saved, next_saved) = tokio::join!(saved, meanwhile);
    slow_saved.unwrap().succeeded().unwrap();
    assert_eq!(next_saved["sandbox"]["state"], "hibernated", "{next_saved}");
    assert_eq!(causes(&scene.slices("next").await), ["attach", "stop", "continue", "hibernate", "hibernate"]);
    scene.audits_clean().await;
}

#[tokio::test]
async fn one_that_hangs_while_it_is_saved_holds_the_others_up_no_longer_than_its_turn() {
    let scene = Scene::with("[hibernation]\nat_once = 1\n").await;
    let hangs = Rule::always("query-migrate", [Does::Hang]);
    let sick = scene.sandbox("sick", &Options { rules: vec![hangs], ..Options::default() }).await;
    let wells = ["w1", "w2", "w3"];
    let mut scripted = Vec::new();
    for well in wells {
        scripted.push(scene.sandbox(well, &Options::default()).await);
    }
    let hibernate = ["hibernate", "sick", "--deadline", "100ms"];
    scene.refused(&hibernate, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
    sick.asked("query-migrate").await.unwrap();
    let started = tokio::time::Instant::now();
    for well in wells {
        assert_eq!(scene.does(&["hibernate", well]).await["sandbox"]["state"], "hibernated");
    }
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    let view = scene.view("sick").await;
    assert_eq!((&view["state"], sick.pids().len()), (&"hibernating".into(), 1), "{view}");
    // One that waits, is destroyed, and leaves its turn to the next.
    scene.does(&["destroy", "sick"]).await;
    scene.does(&["wake", "w1"]).await;
    assert_eq!(scene.does(&["hibernate", "w1"]).await["result"], "done");
    scene.audits_clean().await;
}
