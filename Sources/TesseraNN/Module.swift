import Foundation
import Tessera

/// A part of a model: a class whose properties are parameters and other modules.
///
/// The properties' names, turned to snake_case and joined by dots, are the keys of the state dictionary; they are
/// chosen to be the reference implementation's, so that published checkpoints load by name. Arrays count from 0.
/// Where the reference's name makes no sense in Swift, ``keys`` gives the exception.
///
/// ```swift
/// final class FeedForward: Module {
///     let fc1: Linear
///     let fc2: Linear
/// }
/// ```
open class Module {
    public init() {}

    /// Checkpoint names of properties whose Swift name is another. In the name of an array, each `#` stands for a place
    /// counted from 1, outer arrays first: `["blocks": "stage#"]` gives `stage1`, `stage2`. An empty name leaves the
    /// property out of its parts' keys, for modules that name their parts in full themselves.
    open var keys: [String: String] { [:] }

    /// Every parameter and buffer with its key, in the order of declaration, depth first. One that several places share
    /// is here once, under its first key.
    public final var parameters: [(key: String, parameter: Parameter)] {
        var seen: Set<ObjectIdentifier> = []
        return placedParameters.filter { seen.insert(ObjectIdentifier($0.parameter)).inserted }
    }

    /// Every parameter and buffer in every place: as checkpoints have them, a shared one under several keys.
    public final var placedParameters: [(key: String, parameter: Parameter)] {
        var found: [(String, Parameter)] = []
        collect("", into: &found)
        return found
    }

    /// The number of trainable values.
    public final var parameterCount: Int {
        parameters.reduce(0) { $0 + ($1.parameter.isTrainable ? $1.parameter.shape.count : 0) }
    }

    /// Fills every parameter from its initialiser.
    /// - Parameter keepingValues: only those that have no value yet
    public final func initialize(seed: UInt64, keepingValues: Bool = false) {
        let generator = RandomGenerator(seed: seed)
        for (key, parameter) in parameters where !(keepingValues && parameter.isInitialized) {
            parameter.initialize(generator.fork(key))
        }
    }

    private func collect(_ prefix: String, into found: inout [(String, Parameter)]) {
        var chain: [Mirror] = []
        var mirror: Mirror? = Mirror(reflecting: self)
        while let current = mirror {
            chain.append(current)
            mirror = current.superclassMirror
        }
        for child in chain.reversed().flatMap(\.children) {
            guard let label = child.label else { continue }
            Module.collect(child.value, prefix + (keys[label] ?? Module.snakeCase(label)), into: &found)
        }
    }

    private static func collect(_ value: Any, _ key: String, into found: inout [(String, Parameter)]) {
        switch value {
        case let parameter as Parameter: found.append((key, parameter))
        case let module as Module: module.collect(key.isEmpty || key.hasSuffix(".") ? key : key + ".", into: &found)
        case let modules as [Module]:
            for (index, module) in modules.enumerated() { collect(module, element(index, of: key), into: &found) }
        case let lists as [[Module]]:
            for (index, list) in lists.enumerated() { collect(list, element(index, of: key), into: &found) }
        case let parameters as [Parameter]:
            for (index, parameter) in parameters.enumerated() { found.append((element(index, of: key), parameter)) }
        default: break
        }
    }

    private static func element(_ index: Int, of key: String) -> String {
        if key.isEmpty || key.hasSuffix(".") { return key }
        guard let place = key.firstIndex(of: "#") else { return "\(key).\(index)" }
        return key.replacingCharacters(in: place...place, with: String(index + 1))
    }

    static func snakeCase(_ name: String) -> String {
        name.reduce(into: "") { $0 += $1.isUppercase ? "_" + $1.lowercased() : String($1) }
    }
}

extension Parameter {
    /// Fills the parameter from its initialiser.
    func initialize(_ generator: RandomGenerator) {
        var generator = generator
        value = Tensor(shape) { initializer.fill($0, &generator) }
    }
}
