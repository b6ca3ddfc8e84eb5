import Foundation
import Tessera
import Testing

@testable import TesseraIO

@Suite struct LogTests {
    private let folder: String

    init() throws { folder = try temporaryFolder() }

    @Test func checksumsMatchPublishedValues() {
        // RFC 3720, appendix B.4, and the usual check value of the polynomial.
        #expect(CRC32C.of(Array("123456789".utf8)) == 0xE306_9283)
        #expect(CRC32C.of([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
        #expect(CRC32C.of(Array(0..<32)) == 0x46DD_794E)
    }

    @Test func metricsSurviveQuotingTearingAndResuming() throws {
        let path = folder + "/metrics.csv"
        let log = try MetricsLog(path, columns: ["step", "note"])
        let notes = ["plain", "a,b", "say \"hi\"", "two\nlines", ""]
        for (step, note) in notes.enumerated() { try log.append([String(step), note]) }
        #expect(try log.rows() == notes.enumerated().map { [String($0), $1] })
        #expect(try String(decoding: read(path).prefix(27), as: UTF8.self) == "step,note\r\n0,plain\r\n1,\"a,b\"")
        try AtomicFile.append(Array("9,to".utf8), to: path)
        let resumed = try MetricsLog(path, columns: ["step", "note"])
        try resumed.truncate(after: 2)
        try resumed.append(["3", "again"])
        #expect(try resumed.rows().map { $0[0] } == ["0", "1", "2", "3"])
        #expect { try MetricsLog(path, columns: ["step"]) } throws: { "\($0)".contains("step,note") }
    }

    @Test func eventsReadBack() throws {
        let run = try RunFolder.create(at: folder + "/run")
        let writer = try run.events()
        #expect(writer.path.contains("events.out.tfevents."))
        try writer.scalar("loss/train", 0.25, step: 300)
        try writer.scalars([("a", 1), ("b", -2)], step: 301)
        try writer.image("sample", png: [1, 2, 3], width: 28, height: 30, step: 302)
        let records = EventRecord.decode(try read(writer.path))
        try #require(records.count == 4)
        #expect(fields(records[0])[3] == [.bytes(Array("brain.Event:2".utf8))])
        #expect(fields(records[1])[2] == [.integer(300)])
        let value = try values(records[1])[0]
        #expect(value[1] == [.bytes(Array("loss/train".utf8))])
        #expect(value[2] == [.bits32(Float(0.25).bitPattern)])
        #expect(
            try values(records[2]).map { $0[2] } == [[.bits32(Float(1).bitPattern)], [.bits32(Float(-2).bitPattern)]])
        guard case .bytes(let image)? = try values(records[3])[0][4]?.first else { throw Missing() }
        #expect(fields(image)[1] == [.integer(30)] && fields(image)[2] == [.integer(28)])
        #expect(fields(image)[4] == [.bytes([1, 2, 3])])

        // A torn record and those after the checkpoint go; the rest stays and grows.
        try AtomicFile.append(Array(try read(writer.path).prefix(20)), to: writer.path)
        #expect(EventRecord.decode(try read(writer.path)).count == 4)
        let resumed = try run.events(resumingAfter: 301)
        #expect(resumed.path == writer.path)
        try resumed.scalar("loss/train", 0.125, step: 302)
        #expect(
            EventRecord.decode(try read(writer.path)).map { fields($0)[2] } == [
                nil, [.integer(300)], [.integer(301)], [.integer(302)],
            ])
    }

    @Test func damagedEventsEndTheReading() throws {
        let bytes = EventRecord.encode([1, 2, 3]) + EventRecord.encode([4, 5])
        for count in 0...bytes.count {
            let records = EventRecord.decode(Array(bytes.prefix(count)))
            #expect(records.count == (count < 19 ? 0 : count < 37 ? 1 : 2))
        }
        for index in bytes.indices {
            var damaged = bytes
            damaged[index] ^= 0x10
            #expect(EventRecord.decode(damaged).count == (index < 19 ? 0 : 1))
        }
    }

    private struct Missing: Error {}

    private func fields(_ message: [UInt8]) -> [Int: [ProtobufReader.Value]] {
        var reader = ProtobufReader(message)
        var fields: [Int: [ProtobufReader.Value]] = [:]
        while let field = reader.next() { fields[field.number, default: []].append(field.value) }
        return fields
    }

    private func values(_ event: [UInt8]) throws -> [[Int: [ProtobufReader.Value]]] {
        guard case .bytes(let summary)? = fields(event)[5]?.first else { throw Missing() }
        return try fields(summary)[1, default: []].map { value in
            guard case .bytes(let message) = value else { throw Missing() }
            return fields(message)
        }
    }
}
