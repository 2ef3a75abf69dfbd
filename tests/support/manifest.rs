//! What the README holds for others to copy.

use std::fs;
use std::path::Path;
use std::time::Duration;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value};

pub fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The README's code blocks in this language.
pub fn blocks(language: &str) -> Vec<String> {
    let readme = readme();
    let fence = format!("\n```{language}\n");
    let blocks = readme.split(&fence).skip(1);
    blocks
        .map(|rest| rest.split("\n```").next().unwrap().to_owned() + "\n")
        .collect()
}

/// The README's Kubernetes manifests, in their order.
pub fn manifests() -> Vec<Value> {
    let documents = blocks("yaml").into_iter().flat_map(|block| parse(&block));
    documents.filter(|one| one["kind"].is_string()).collect()
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
