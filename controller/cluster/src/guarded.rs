//! Objects that tenants may write: one that does not decode is still an object, and hides no other in a list or a watch.
//!
//! kube's own `DeserializeGuard` needs metadata that decodes. Whoever may update an object may write its `managedFields` too: times that
//! Kubernetes admits and jiff does not (its last one is 9999-12-30T22:00:00Z), and field sets that are nested deeper than serde_json reads
//! (128 levels). Of these entries only what [`netloss_core::history`] shows is kept, read leniently: who wrote what part, and when.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use kube::{Resource, core::ObjectMeta};
use netloss_core::sanitize::brief;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, IgnoredAny},
    ser,
};
use serde_json::{Map, Value, json};
use std::{borrow::Cow, collections::BTreeMap};

/// An object, or what is known of one that does not decode.
///
/// An object that is written again must not be written with the `managedFields` of this one, which are not whole.
#[derive(Debug, Clone)]
pub struct Guarded<K>(pub Result<K, Unreadable>);

/// An object that does not decode.
#[derive(Debug, Clone, PartialEq)]
pub struct Unreadable {
    /// Name, namespace, uid, resourceVersion, generation, labels, finalizers and deletionTimestamp, and nothing else.
    pub metadata: ObjectMeta,
    /// Why it does not decode, on one line.
    pub error: String,
}

impl<K> Guarded<K> {
    /// The object, where one that does not decode is an error as any other.
    ///
    /// # Errors
    /// When it does not decode.
    pub fn decoded(self) -> kube::Result<K> {
        self.0.map_err(|unreadable| kube::Error::SerdeError(de::Error::custom(unreadable.error)))
    }
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    managed_fields: Option<Vec<Entry>>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// An entry of `managedFields`, with the first level of its fields alone.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::zero_sized_map_values, reason = "a map is what is decoded, and values of any depth are skipped")]
struct Entry {
    #[serde(default)]
    manager: Option<String>,
    #[serde(default)]
    subresource: Option<String>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    fields_v1: Option<BTreeMap<String, IgnoredAny>>,
}

impl Entry {
    fn decoded(self) -> ManagedFieldsEntry {
        let fields = self.fields_v1.map(|fields| fields.into_keys().map(|name| (name, json!({}))).collect::<Map<_, _>>());
        ManagedFieldsEntry {
            manager: self.manager,
            subresource: self.subresource,
            time: self.time.and_then(|time| time.parse().ok()).map(Time),
            fields_v1: fields.map(|fields| FieldsV1(Value::Object(fields))),
            ..ManagedFieldsEntry::default()
        }
    }
}

/// What is needed to handle an object of which nothing else is known.
fn identity(metadata: &Map<String, Value>) -> ObjectMeta {
    let text = |name: &str| metadata.get(name).and_then(Value::as_str).map(str::to_owned);
    let decoded = |name: &str| metadata.get(name).cloned();
    ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        generation: metadata.get("generation").and_then(Value::as_i64),
        labels: decoded("labels").and_then(|labels| serde_json::from_value(labels).ok()),
        finalizers: decoded("finalizers").and_then(|finalizers| serde_json::from_value(finalizers).ok()),
        // A time that does not decode is still the time of a deletion.
        deletion_timestamp: text("deletionTimestamp").map(|time| Time(time.parse().unwrap_or(Timestamp::MAX))),
        ..ObjectMeta::default()
    }
}

impl<'de, K: Resource + DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object { metadata, mut fields } = Object::deserialize(deserializer)?;
        let Metadata { managed_fields, fields: metadata } = metadata.unwrap_or_default();
        let known = identity(&metadata);
        fields.insert("metadata".to_owned(), Value::Object(metadata));
        let object = match serde_json::from_value::<K>(Value::Object(fields)) {
            Ok(mut object) => {
                object.meta_mut().managed_fields = managed_fields.map(|entries| entries.into_iter().map(Entry::decoded).collect());
                Ok(object)
            }
            Err(error) => Err(Unreadable { metadata: known, error: brief(&error.to_string()) }),
        };
        Ok(Self(object))
    }
}

impl<K: Serialize> Serialize for Guarded<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(object) => object.serialize(serializer),
            Err(unreadable) => Err(ser::Error::custom(format!("an object that does not decode is not written: {}", unreadable.error))),
        }
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &unreadable.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut unreadable.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::{ObjectList, PartialObjectMeta, WatchEvent};
    use netloss_api::{ChaosExperiment, FINALIZER};
    use netloss_core::machine::fixtures::spec;
    use proptest::prelude::*;

    fn pod(metadata: &Value) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": { "containers": [] } })
    }

    /// What the API server sends, which is text.
    fn read<T: DeserializeOwned>(object: &Value) -> T {
        serde_json::from_str(&object.to_string()).unwrap()
    }

    #[test]
    fn managed_fields_of_any_time_and_depth_decode() {
        let deep = (0..100).fold(json!({}), |inner, _| json!({ "f:a": inner }));
        for time in ["9999-12-31T12:00:00Z", "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "soon"] {
            let metadata = json!({ "name": "odd", "managedFields": [
                { "manager": "someone", "time": time, "fieldsV1": { "f:spec": deep.clone(), "f:metadata": {} } },
                { "manager": "kubelet", "subresource": "status" },
            ] });
            let list =
                json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod(&metadata), pod(&json!({ "name": "b" }))] });
            let list: ObjectList<Guarded<Pod>> = read(&list);
            let names: Vec<_> = list.items.iter().map(|object| object.0.as_ref().unwrap().metadata.name.as_deref()).collect();
            assert_eq!(names, [Some("odd"), Some("b")], "{time}");
            let event: WatchEvent<Guarded<PartialObjectMeta<Pod>>> = read(&json!({ "type": "MODIFIED", "object": pod(&metadata) }));
            assert!(matches!(event, WatchEvent::Modified(Guarded(Ok(_)))), "{time}");
        }
    }

    /// serde_json reads 128 levels, of which the object itself has some.
    #[test]
    fn field_sets_deeper_than_serde_json_reads_decode() {
        let deep = format!("{}{}", "{\"f:a\":".repeat(1000), "{}".to_owned() + &"}".repeat(1000));
        let text = format!(
            r#"{{ "items": [{{ "metadata": {{ "name": "odd", "managedFields": [{{ "manager": "m", "fieldsV1": {deep} }}] }} }}], "metadata": {{}} }}"#
        );
        let list: ObjectList<Guarded<Pod>> = serde_json::from_str(&text).unwrap();
        let entries = list.items[0].0.as_ref().unwrap().metadata.managed_fields.clone().unwrap();
        assert_eq!(entries[0].manager.as_deref(), Some("m"));
        assert_eq!(entries[0].fields_v1, Some(FieldsV1(json!({ "f:a": {} }))));
    }

    #[test]
    fn of_an_object_that_does_not_decode_what_identifies_it_is_kept() {
        let metadata = json!({
            "name": "x", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 3, "labels": { "a": "b" },
            "finalizers": [FINALIZER], "deletionTimestamp": "9999-12-31T12:00:00Z", "managedFields": [{ "time": "9999-12-31T12:00:00Z" }],
        });
        let object: Guarded<ChaosExperiment> = read(&json!({ "metadata": metadata, "spec": { "action": 7 } }));
        let Guarded(Err(Unreadable { metadata, error })) = object else { panic!("it decodes") };
        assert!(!error.is_empty());
        let expected = ObjectMeta {
            name: Some("x".to_owned()),
            namespace: Some("n".to_owned()),
            uid: Some("u".to_owned()),
            resource_version: Some("7".to_owned()),
            generation: Some(3),
            labels: Some(BTreeMap::from([("a".to_owned(), "b".to_owned())])),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            deletion_timestamp: Some(Time(Timestamp::MAX)),
            ..ObjectMeta::default()
        };
        assert_eq!(metadata, expected);
    }

    #[test]
    fn an_object_that_decodes_is_as_it_was() {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.labels = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        let written = serde_json::to_value(Guarded(Ok(object.clone()))).unwrap();
        assert_eq!(written, serde_json::to_value(&object).unwrap());
        let read: Guarded<ChaosExperiment> = read(&written);
        assert_eq!(serde_json::to_value(read.decoded().unwrap()).unwrap(), written);
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            Just(json!("9999-12-31T12:00:00Z")),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-zA-Z.:]{0,8}", inner, 0..4).prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    proptest! {
        /// Whatever is in the metadata, the spec and the status of one object, the list is read, and the other objects of it decode.
        #[test]
        fn nothing_in_an_object_hides_another(
            fields in prop::collection::btree_map(
                prop_oneof![
                    Just("creationTimestamp"), Just("deletionTimestamp"), Just("deletionGracePeriodSeconds"), Just("generation"), Just("labels"),
                    Just("annotations"), Just("finalizers"), Just("ownerReferences"), Just("generateName"), Just("selfLink"), Just("uid"),
                ],
                anything(), 0..6,
            ),
            time in "\\PC{0,8}",
            spec in anything(),
            status in anything(),
        ) {
            let mut odd = json!({ "metadata": { "name": "odd", "managedFields": [{ "time": time }] }, "spec": spec, "status": status });
            for (name, value) in fields {
                odd["metadata"][name] = value;
            }
            let list = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [odd, pod(&json!({ "name": "b" }))] });
            let list: ObjectList<Guarded<Pod>> = read(&list);
            prop_assert_eq!(list.items[0].meta().name.as_deref(), Some("odd"));
            prop_assert!(list.items[1].0.is_ok());
        }
    }
}
