//! The README, and the examples in scripts/examples, as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// Where an example is.
pub fn example_path(name: &str) -> PathBuf {
    root().join("scripts/examples").join(name)
}

/// The text of an example.
pub fn example(name: &str) -> String {
    let path = example_path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of an example in YAML.
pub fn documents(name: &str) -> Vec<Value> {
    parse(&example(name))
}

/// The examples with a pod in them.
pub const PODS: [&str; 3] = [
    "pod.yaml",
    "contour-deployment.yaml",
    "contour-daemonset.yaml",
];

/// All Kubernetes objects of the examples.
pub fn manifests() -> Vec<Value> {
    PODS.iter().flat_map(|name| documents(name)).collect()
}

fn parse(text: &str) -> Vec<Value> {
    let documents = Yaml::load_from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    documents.iter().map(value).collect()
}

fn value(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => (*value).into(),
        Yaml::Value(Scalar::Integer(value)) => (*value).into(),
        Yaml::Value(Scalar::FloatingPoint(value)) => value.into_inner().into(),
        Yaml::Value(Scalar::String(text)) => text.as_ref().into(),
        Yaml::Sequence(items) => items.iter().map(value).collect(),
        Yaml::Mapping(pairs) => {
            let pairs = pairs.iter().map(|(key, item)| {
                let key = key.as_str().expect("a key is a string").to_owned();
                (key, value(item))
            });
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        other => panic!("not for a manifest: {other:?}"),
    }
}

/// The value of `--name=DURATION` among these arguments.
pub fn duration_option(args: &[Value], name: &str) -> Option<Duration> {
    let value = args.iter().find_map(|arg| {
        let (option, value) = arg.as_str()?.split_once('=')?;
        (option == name).then_some(value)
    });
    value.map(|value| drainit::duration::parse(value).unwrap())
}
