//! Members are added, moved and removed.

use super::*;

#[test]
fn members_are_added_and_removed() {
    let cluster = Cluster::start();
    let post = |target: &str, url: &str| cluster.send("POST", target, &[], url.as_bytes());
    for url in ["http://127.0.0.1:14379", " http://127.0.0.1:14379/\r\n"] {
        assert_eq!(post("/4", url).status, 204);
    }
    let taken = post("/4", "http://127.0.0.1:1");
    assert_eq!(taken.status, 409);
    let says = "member 4 is at http://127.0.0.1:14379;";
    assert!(taken.text().contains(says), "{}", taken.text());
    assert_eq!(post("/5", "http://127.0.0.1:14379").status, 409);
    for target in [
        "/",
        "/0",
        "/04",
        "/x",
        "/4/",
        "/18446744073709551616",
        "/+4",
    ] {
        let bad = post(target, "http://127.0.0.1:1");
        assert_eq!(bad.status, 400, "{target}");
        assert!(bad.text().contains("id is a number"));
    }
    for url in [
        "",
        "127.0.0.1",
        "http://h",
        "http://h:1/x",
        "http://h:1//",
        "\u{ff}",
    ] {
        let bad = post("/6", url);
        assert_eq!(bad.status, 400, "{url}");
        assert!(bad.text().contains("not a peer URL"), "{}", bad.text());
    }
    assert_eq!(cluster.send("POST", "/6", &[], b"\xff\xfe").status, 400);
    assert_eq!(post("/6", &"x".repeat(300)).status, 400);
    assert_eq!(post("/6", &"x".repeat(4_000)).status, 400);
    assert_eq!(post("/6", &"x".repeat(5_000)).status, 413);
    let conditional = cluster.send("POST", "/6", &["If-Match: \"1\""], b"http://h:1");
    assert_eq!(conditional.status, 400);

    let delete = |target: &str| cluster.send("DELETE", target, &[], b"");
    assert_eq!(delete("/4").status, 204);
    let gone = delete("/4");
    assert_eq!(gone.status, 404);
    assert!(gone.text().ends_with("/-/kv/4"), "{}", gone.text());
    assert_eq!(delete("/1").status, 409);
    for target in ["/0", "/007", "/18446744073709551616", "/%30"] {
        let bad = delete(target);
        assert_eq!(bad.status, 400, "{target}");
        assert!(bad.text().ends_with(&format!("/-/kv{target}")));
    }
    let conditional = cluster.send("DELETE", "/1", &["If-None-Match: *"], b"");
    assert_eq!(conditional.status, 400);
}

#[test]
fn a_joiner_that_gives_its_incarnation_is_no_other() {
    let cluster = Cluster::start();
    let join = |incarnation: &str| {
        let body = format!("{{\"id\":4,\"addr\":\"h:4\"{incarnation}}}");
        cluster.send("POST", "/join", &[], body.as_bytes())
    };
    let own = ",\"incarnation\":\"00000000000000a4\"";
    for wish in [own, own, ""] {
        assert_eq!(join(wish).status, 204, "{wish}");
    }
    // A member that is added by hand has no incarnation yet.
    assert_eq!(cluster.send("POST", "/4", &[], b"http://h:4").status, 204);
    let other = join(",\"incarnation\":\"00000000000000b4\"");
    assert_eq!(other.status, 409);
    let line = "not changed: member 4 has another data directory: start it on that one, or, if that is lost, DELETE \
                /-/members/4 and then add it again";
    assert_eq!(other.text(), line);
    for wrong in [
        ",\"incarnation\":\"0000000000000000\"",
        ",\"incarnation\":\"a4\"",
        ",\"incarnation\":4",
        ",\"incarnations\":\"00000000000000a4\"",
    ] {
        let bad = join(wrong);
        assert_eq!(bad.status, 400, "{wrong}");
        assert!(bad.text().contains("the body has to be"), "{}", bad.text());
    }
    // Another directory gets the id only after the member was removed.
    assert_eq!(cluster.send("DELETE", "/4", &[], b"").status, 204);
    assert_eq!(join(",\"incarnation\":\"00000000000000b4\"").status, 204);
    assert_eq!(join(own).status, 409);
}

#[test]
fn an_id_that_is_bound_to_another_directory_has_a_code_of_its_own() {
    let cluster = Cluster::start();
    let body = b"{\"id\":1,\"addr\":\"127.0.0.1:9021\",\"incarnation\":\"00000000000000b1\"}";
    let accept = "Accept: application/json";
    let refused = cluster.send("POST", "/join", &[accept], body);
    let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(
        (refused.status, problem["code"].as_str()),
        (409, Some("other-incarnation"))
    );
}

#[test]
fn a_member_is_moved_to_another_url() {
    let cluster = Cluster::start();
    assert_eq!(cluster.send("POST", "/4", &[], b"http://h:4").status, 204);
    let url_of = |id: u64| {
        let status = cluster.get("/-/status");
        let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
        let mut members = status["members"].as_array().unwrap().iter();
        let member = members.find(|member| member["id"] == id).unwrap();
        member["url"].as_str().unwrap().to_owned()
    };
    // Moving a member to its current URL succeeds too.
    for url in ["http://h:5", " http://h:5/\r\n"] {
        let moved = cluster.put("/-/members/4", url.as_bytes());
        assert_eq!((moved.status, &*moved.body), (204, &b""[..]));
        assert_eq!(url_of(4), "http://h:5");
    }
    let taken = cluster.put("/-/members/4", b"http://127.0.0.1:9021");
    assert_eq!(taken.status, 409);
    let of_member = "the peer URL of member 1;";
    assert!(taken.text().contains(of_member), "{}", taken.text());
    let absent = cluster.put("/-/members/7", b"http://h:7");
    assert_eq!(
        (absent.status, absent.text()),
        (404, "there is no such member 7")
    );
    for url in ["", "h", "http://h", "http://h:1/x"] {
        let bad = cluster.put("/-/members/4", url.as_bytes());
        assert_eq!(bad.status, 400, "{url}");
        assert!(bad.text().contains("not a peer URL"), "{}", bad.text());
    }
    assert_eq!(cluster.put("/-/members/4", &[b'x'; 5_000]).status, 413);
    for header in ["If-Match: \"1\"", "If-None-Match: *"] {
        let conditional = cluster.send("PUT", "/-/members/4", &[header], b"http://h:6");
        assert_eq!(conditional.status, 400, "{header}");
    }
    assert_eq!(cluster.put("/-/members/4?x=1", b"http://h:6").status, 400);
    assert_eq!(url_of(4), "http://h:5");
}

#[test]
fn a_move_of_what_is_no_id_says_where_the_key_of_that_name_is() {
    let cluster = Cluster::start();
    for target in [
        "/-/members/",
        "/-/members/04",
        "/-/members/4/x",
        "/-/members/x",
    ] {
        let bad = cluster.put(target, b"http://h:6");
        assert_eq!(bad.status, 400, "{target}");
        let way_out = format!("/-/kv{target}");
        assert!(bad.text().ends_with(&way_out), "{}", bad.text());
        assert_eq!(cluster.put(&way_out, b"1").status, 204);
        assert_eq!(cluster.get(&way_out).body, b"1");
    }
}
