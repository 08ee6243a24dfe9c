using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Transports.Nbd;

[Collection(WireCollection.Name)]
public class NbdFuzzTests
{
    private const int Mutations = 100_000;
    private const int Capacity = 1 << 20;

    [Fact]
    public void A_100_000_mutated_requests_and_options_neither_crash_nor_leak_nor_reach_what_is_read_only()
    {
        var seed = Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { } text ? unchecked((int)ulong.Parse(text)) : 4711;
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);
        using var memory = new MemoryBackend(Capacity);
        using var fixture = new NbdFixture(new FaultyBackend(memory, new FaultPlan { Seed = seed, Delay = 0.3, Reorder = true, Fail = 0.02 }));
        var guarded = new NbdExport("guarded", new MemoryBackend(Capacity), readOnly: true);
        fixture.Server.Add(guarded);
        using (var warmUp = NbdClient.Open(fixture.Server, name: "guarded"))
            warmUp.ReadAt(0, 512);
        fixture.WaitIdle();
        var descriptors = Kernel.DescriptorsBefore();
        var mutated = 0;
        var sessions = 0;
        while (mutated < Mutations)
        {
            sessions++;
            using var client = NbdClient.Connect(fixture.Server);
            mutated += random.Next(8) == 0 ? Haggle(client, random) : Transmit(client, random);
            client.Dispose();
        }

        fixture.WaitIdle();
        Assert.Equal(0, NbdBuffers.Shared);
        Assert.Equal(descriptors, Kernel.Descriptors);
        using (var after = NbdClient.Open(fixture.Server, name: "guarded"))
            Assert.Equal(new byte[Capacity], after.ReadAt(0, Capacity));
        guarded.Backend.Dispose();
        TestContext.Current.TestOutputHelper?.WriteLine($"{mutated} mutated messages in {sessions} sessions, {fixture.Server.BadMessages} refused");
        // How far the server is when a client goes is the scheduler's business.
        Assert.InRange(fixture.Server.BadMessages, 1000, mutated);
    }

    private static int Haggle(NbdClient client, Random random)
    {
        client.Greet();
        var count = 0;
        for (; count < 30; count++)
        {
            var name = random.Next(3) switch { 0 => "disk", 1 => "guarded", _ => "" };
            var option = (uint)random.Next(3, 12);
            // The one that begins the transmission is for the other sessions.
            option = option == 7 ? 6 : option;
            var data = option is 9 or 10 ? NbdClient.Contexts(name, "base:allocation", "base:") : NbdClient.Choice(name, 3, 1);
            if (data.Length > 0)
                data[random.Next(data.Length)] = (byte)random.Next(256);
            if (!client.Send(NbdClient.Option(option, random.Next(4) == 0 ? data[..random.Next(data.Length)] : data)))
                return count;
            Drain(client);
        }

        return count;
    }

    private static int Transmit(NbdClient client, Random random)
    {
        client.Greet();
        var name = random.Next(4) == 0 ? "guarded" : "disk";
        if (random.Next(3) > 0)
        {
            client.Ask(NbdOption.STRUCTURED_REPLY);
            client.Ask(NbdOption.SET_META_CONTEXT, NbdClient.Contexts(name, "base:allocation"));
            client.ReadReply();
        }

        client.Go(name);
        var count = 0;
        while (count < 200)
        {
            List<byte> batch = [];
            for (var i = random.Next(1, 20); i > 0; i--)
                batch.AddRange(Mutated(random, ref count));
            if (!SendAndDrain(client, batch.ToArray()))
                break;
        }

        return count;
    }

    private static byte[] Mutated(Random random, ref int count)
    {
        var command = (NbdCommand)random.Next(8);
        command = command == NbdCommand.DISC ? NbdCommand.READ : command;
        var length = (uint)random.Next(0, 16) * 512;
        var payload = command == NbdCommand.WRITE ? new byte[length] : [];
        random.NextBytes(payload);
        var request = NbdClient.Request(command, (ulong)random.Next(0, 2040) * 512, command == NbdCommand.FLUSH ? 0 : length, payload: payload);
        if (random.Next(3) == 0)
            return request;
        count++;
        switch (random.Next(7))
        {
            case 0:
                // The magic: the end of the connection.
                if (random.Next(20) == 0)
                    request[random.Next(4)] ^= (byte)(1 << random.Next(8));
                return request;
            case 1:
                BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(4), (ushort)(random.Next(2) == 0 ? random.Next(32) : random.Next(65536)));
                return request;
            case 2:
                // A command that may have a payload it did not have, or the other way round.
                request[7] = (byte)random.Next(12);
                return request;
            case 3:
                ulong[] edges = [0, 1, ulong.MaxValue, ulong.MaxValue - 511, 1UL << 63, Capacity, Capacity - 512, long.MaxValue - 511];
                BinaryPrimitives.WriteUInt64BigEndian(request.AsSpan(16), edges[random.Next(edges.Length)]);
                return request;
            case 4 when command != NbdCommand.WRITE:
                uint[] lengths = [0, 1, uint.MaxValue, uint.MaxValue - 511, 1u << 31, Capacity, Capacity + 512];
                BinaryPrimitives.WriteUInt32BigEndian(request.AsSpan(24), lengths[random.Next(lengths.Length)]);
                return request;
            case 5 when random.Next(20) == 0:
                return request[..random.Next(1, request.Length)];
            default:
                request[random.Next(4, 28)] = (byte)random.Next(256);
                return request;
        }
    }

    private static bool SendAndDrain(NbdClient client, ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            var sent = client.Stream.Send(bytes, [], out var error);
            if (sent < 0 && error != Errno.EAGAIN)
                return false;
            bytes = bytes[Math.Max(sent, 0)..];
            Drain(client);
        }

        return true;
    }

    private static void Drain(NbdClient client)
    {
        var buffer = new byte[65536];
        while (client.Stream.Receive(buffer, [], out _) > 0)
        {
        }
    }
}
