//! Requests over real connections.

use std::sync::mpsc;
use std::time::Duration;

use axum::Router;
use axum::http::header::ETAG;
use object_store::ObjectStoreExt as _;
use object_store::aws::AmazonS3Builder;
use tokio::runtime::{Builder, Runtime};

use super::*;

/// What a checkpoint's thread has, and that of the curves: a runtime that rests between two writes.
fn resting() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A store that takes everything, on a thread of its own.
fn willing() -> String {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        resting().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
            let listener = listener.expect("a port");
            tell.send(listener.local_addr().expect("bound"))
                .expect("the test waits");
            let taken = Router::new().fallback(async || [(ETAG, "\"1\"")]);
            axum::serve(listener, taken).await.expect("serves");
        });
    });
    format!("http://{}", told.recv().expect("the store starts"))
}

#[test]
fn a_request_needs_no_runtime_but_its_callers() {
    let settings = AmazonS3Builder::new()
        .with_endpoint(willing())
        .with_bucket_name("bucket")
        .with_region("us-east-1")
        .with_access_key_id("key")
        .with_secret_access_key("secret");
    let store = http::s3(settings, true).expect("settings that work");
    let (key, bytes) = (Path::from("object"), Bytes::from_static(b"bytes"));
    let first = resting();
    first.block_on(async {
        store.put(&key, bytes.clone().into()).await.expect("taken");
        // Its connection is free again, and is kept for whoever asks next.
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
    resting().block_on(async {
        let second = tokio::time::timeout(Duration::from_secs(5), store.put(&key, bytes.into()));
        second.await.expect("not held up").expect("taken");
    });
    drop(first);
}
