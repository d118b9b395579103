//! Checks the API against its OpenAPI document with schemathesis.

use super::*;

/// Generated requests for each operation. The seed makes them the same in every run.
const EXAMPLES: &str = "25";
const SEED: &str = "7";

#[test]
fn the_api_conforms_to_its_document() {
    let python = std::env::var("REELSEEK_PYTHON").unwrap_or_else(|_| "python3".into());
    let known = Command::new(&python).args(["-c", "import schemathesis"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        return crate::support::skip(format_args!("{python} has no schemathesis (pip install schemathesis)"));
    }
    let folder = TestFolder::with_index();
    let server = folder.serve_with_token(&["--fetch"]);
    let settings = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/serve/schemathesis.toml");
    let output = Command::new(python)
        .args(["-c", "from schemathesis.cli import schemathesis; schemathesis()"])
        .arg("--config-file")
        .arg(settings)
        .args([
            "run",
            &format!("{}/openapi.json", server.base),
            "--no-color",
            "--continue-on-failure",
            "--checks",
            "all",
        ])
        .args(["--max-examples", EXAMPLES, "--seed", SEED, "-H", &format!("Authorization: Bearer {TOKEN}")])
        // schemathesis writes its results to the working folder.
        .current_dir(folder.path("videos"))
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", text(&output.stderr));
    assert!(printed.contains("Test cases:") || printed.contains("passed"), "{printed}");
    assert!(!server.log().contains("ERROR"), "{}", server.log());
    assert_eq!(server.get("/healthz").status, 200);
}
