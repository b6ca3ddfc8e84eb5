import Foundation

/// Writes an event file that TensorBoard reads: scalars and images by step.
///
/// The file is a sequence of records, `length (u64) | masked CRC-32C of the length | data | masked CRC-32C of the data`,
/// little-endian, each with a protocol-buffer message `Event`. Every record is flushed: a killed run is readable up to
/// its last one.
public struct TensorBoardWriter: Sendable {
    public let path: String
    private let files: any FileSystem

    /// Begins a file.
    public init(_ path: String, on files: some FileSystem = .system) throws {
        self.path = path
        self.files = files
        var event = ProtobufWriter()
        event.add(Event.wallTime, Date().timeIntervalSince1970)
        event.add(Event.fileVersion, "brain.Event:2")
        try AtomicFile.write(EventRecord.encode(event.bytes), to: path, on: files)
    }

    /// Goes on with a file: drops the events after `step`, and a record that a crash tore.
    public init(resuming path: String, after step: Int, on files: some FileSystem = .system) throws {
        self.path = path
        self.files = files
        let records = EventRecord.decode(try MappedFile.contents(of: path))
        let kept = records.filter { Event.step(of: $0) <= step }
        try AtomicFile.write(to: path, on: files) { writer in
            for data in kept { try writer.write(EventRecord.encode(data)) }
        }
    }

    /// Adds a number under a name such as `loss/train`.
    public func scalar(_ tag: String, _ value: Float, step: Int) throws {
        try add(tag, step: step) { $0.add(Event.Value.simpleValue, value) }
    }

    /// Adds numbers under several names in one record.
    public func scalars(_ values: [(tag: String, value: Float)], step: Int) throws {
        let summaries = values.map { tag, value in
            Event.value(tag) { $0.add(Event.Value.simpleValue, value) }
        }
        try write(summaries, step: step)
    }

    /// Adds an image.
    /// - Parameter png: the content of a PNG file of `width` by `height` pixels.
    public func image(_ tag: String, png: [UInt8], width: Int, height: Int, step: Int) throws {
        var image = ProtobufWriter()
        image.add(Event.Image.height, UInt64(height))
        image.add(Event.Image.width, UInt64(width))
        image.add(Event.Image.colorspace, UInt64(3))
        image.add(Event.Image.encoded, png)
        try add(tag, step: step) { $0.add(Event.Value.image, image.bytes) }
    }

    private func add(_ tag: String, step: Int, _ content: (inout ProtobufWriter) -> Void) throws {
        try write([Event.value(tag, content)], step: step)
    }

    private func write(_ values: [[UInt8]], step: Int) throws {
        var summary = ProtobufWriter()
        for value in values { summary.add(Event.summaryValue, value) }
        var event = ProtobufWriter()
        event.add(Event.wallTime, Date().timeIntervalSince1970)
        event.add(Event.step, UInt64(step))
        event.add(Event.summary, summary.bytes)
        try AtomicFile.append(EventRecord.encode(event.bytes), to: path, on: files)
    }
}

/// The framing of an event file.
enum EventRecord {
    static func encode(_ data: [UInt8]) -> [UInt8] {
        let length = littleEndian(UInt64(data.count))
        return length + littleEndian(maskedChecksum(length)) + data + littleEndian(maskedChecksum(data))
    }

    /// The data of the whole records, up to the first that is torn or damaged.
    static func decode(_ bytes: [UInt8]) -> [[UInt8]] {
        var records: [[UInt8]] = []
        var rest = bytes[...]
        func take(_ count: Int) -> [UInt8]? {
            guard rest.count >= count else { return nil }
            defer { rest = rest.dropFirst(count) }
            return Array(rest.prefix(count))
        }
        while let header = take(8), let headerChecksum = take(4),
            headerChecksum == littleEndian(maskedChecksum(header)),
            let length = Int(exactly: header.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }),
            let data = take(length), let checksum = take(4), checksum == littleEndian(maskedChecksum(data))
        {
            records.append(data)
        }
        return records
    }

    /// A checksum of data that holds checksums is weak; the mask makes it another number.
    private static func maskedChecksum(_ bytes: [UInt8]) -> UInt32 {
        let crc = CRC32C.of(bytes)
        return (crc >> 15 | crc << 17) &+ 0xA282_EAD8
    }
}

/// The numbers of the fields of TensorBoard's messages.
private enum Event {
    static let wallTime = 1
    static let step = 2
    static let fileVersion = 3
    static let summary = 5
    static let summaryValue = 1

    enum Value {
        static let tag = 1
        static let simpleValue = 2
        static let image = 4
    }

    enum Image {
        static let height = 1
        static let width = 2
        static let colorspace = 3
        static let encoded = 4
    }

    static func value(_ tag: String, _ content: (inout ProtobufWriter) -> Void) -> [UInt8] {
        var value = ProtobufWriter()
        value.add(Value.tag, tag)
        content(&value)
        return value.bytes
    }

    /// The step of an encoded event; 0, the default, for the first one of a file.
    static func step(of event: [UInt8]) -> Int {
        var reader = ProtobufReader(event)
        while let field = reader.next() {
            if field.number == step, case .integer(let value) = field.value { return Int(truncatingIfNeeded: value) }
        }
        return 0
    }
}
