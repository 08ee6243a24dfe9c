using System.Buffers.Binary;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Tests.FrontEnd;
using static Virtbus.Wire.VhostUser.VhostUserRequest;

namespace Virtbus.Tests.Transports.VhostUser;

/// <summary>A disk that offers packed rings, and front ends that take them or do not.</summary>
public sealed class VhostUserPackedTests : IDisposable
{
    private readonly VhostUserFixture _fixture = new(packed: true);

    public void Dispose() => _fixture.Dispose();

    [Theory]
    [InlineData(true, 16)]
    [InlineData(true, 7)]
    [InlineData(true, 3)]
    [InlineData(false, 16)]
    public void Front_end_reads_and_writes_the_disk_many_times_around_the_ring(bool packed, int size)
    {
        using var front = new FrontEnd(_fixture.Socket, packed: packed, ringSize: size);
        front.Connect();
        var bytes = new byte[512];
        var back = new byte[512];
        for (var i = 0UL; i < 40; i++)
        {
            Random.Shared.NextBytes(bytes);
            front.Memory.Write(DataAt, bytes);
            front.WriteSector(i);
            front.Memory.Write(DataAt, new byte[512]);
            front.ReadSector(i);
            front.Memory.Read(DataAt, back);
            Assert.Equal(bytes, back);
        }
    }

    [Fact]
    public void Packed_rings_are_offered_where_they_were_asked_for()
    {
        using var plain = new VhostUserFixture();
        foreach (var (fixture, offers) in new[] { (plain, false), (_fixture, true) })
        {
            using var front = new FrontEnd(fixture.Socket);
            var features = new VirtioFeatures(front.Ask(GET_FEATURES, [])!.Value);
            Assert.Equal(offers, features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED));
            Assert.True(features.Has(VirtioFeatures.VIRTIO_F_IN_ORDER));
        }
    }

    [Fact]
    public void Stopped_ring_tells_both_places_and_goes_on_from_them()
    {
        using var front = new FrontEnd(_fixture.Socket, packed: true, ringSize: 7);
        front.Connect();
        for (var i = 1; i < 30; i++)
        {
            front.ReadSector((ulong)i);
            // Three descriptors a request; the wrap counter is one until the ring's end is passed.
            var places = 3 * i;
            var place = (uint)(places % 7) | (places / 7 % 2 == 0 ? 0x8000u : 0);
            var answer = front.Ask(GET_VRING_BASE, State(0, 0))!.Value;
            Assert.Equal(place | (place << 16), (uint)(answer >> 32));
            front.Do(SET_VRING_BASE, State(0, (uint)(answer >> 32)));
            front.Do(SET_VRING_KICK, Number(0), front.Kick.Descriptor);
        }
    }

    [Fact]
    public void Ring_that_was_never_started_tells_that_it_begins()
    {
        using var front = new FrontEnd(_fixture.Socket, packed: true);
        front.Send(SET_FEATURES, front.Ask(GET_FEATURES, []) is { } features ? Number(features) : []);
        Assert.Equal(0x8000_8000u, (uint)(front.Ask(GET_VRING_BASE, State(1, 0))!.Value >> 32));
        front.Connect();
        front.ReadSector(0);
        // A reset takes the features back, and not where the ring was.
        front.Do(RESET_DEVICE, []);
        Assert.Equal(0x8003_8003u, (uint)(front.Ask(GET_VRING_BASE, State(0, 0))!.Value >> 32));
    }

    [Fact]
    public void Front_end_that_changes_its_mind_about_the_form_begins_anew()
    {
        using var front = new FrontEnd(_fixture.Socket, packed: true);
        front.Connect();
        front.ReadSector(0);
        var features = front.Ask(GET_FEATURES, [])!.Value & ~Packed;
        front.Do(SET_FEATURES, Number(features));
        Assert.Equal(0u, (uint)(front.Ask(GET_VRING_BASE, State(0, 0))!.Value >> 32));
    }

    [Fact]
    public void Size_and_place_that_no_such_ring_has_are_refused_and_the_ring_goes_on()
    {
        using var front = new FrontEnd(_fixture.Socket, packed: true);
        front.Connect();
        front.ReadSector(0);
        Assert.NotEqual(0u, front.Ask(SET_VRING_NUM, State(0, 0), 9));
        Assert.NotEqual(0u, front.Ask(SET_VRING_NUM, State(0, 1025), 9));
        front.ReadSector(1);
        // Behind the ring's end.
        front.Ask(GET_VRING_BASE, State(0, 0));
        front.Do(SET_VRING_BASE, State(0, 0x8010_8010));
        Assert.NotEqual(0u, front.Ask(SET_VRING_KICK, Number(0), 9, front.Kick.Descriptor));
        front.Do(SET_VRING_BASE, State(0, 0x8006_8006));
        front.ReadSector(2);
    }

    [Fact]
    public void Driver_that_breaks_its_ring_gets_an_error_and_the_next_front_end_a_disk()
    {
        using (var front = new FrontEnd(_fixture.Socket, packed: true))
        {
            front.Connect();
            front.ReadSector(0);
            ((PackedDriverRing)front.Ring).Writer.WriteDescriptor(3, default, 16, 0, PackedRing.VIRTQ_DESC_F_AVAIL);
            front.Kick.Signal();
            Assert.True(front.Error.Wait(TimeSpan.FromMilliseconds(Deadline.Milliseconds)));
            Assert.Equal(VirtioStatus.DEVICE_NEEDS_RESET, (byte)(front.Ask(GET_STATUS, [])!.Value & VirtioStatus.DEVICE_NEEDS_RESET));
            // It ended at the request that the driver does not see handed back.
            Assert.Equal(0x8003_8003u, (uint)(front.Ask(GET_VRING_BASE, State(0, 0))!.Value >> 32));
        }

        _fixture.WaitIdle(1);
        using var next = new FrontEnd(_fixture.Socket, packed: true);
        next.Connect();
        next.ReadSector(0);
    }

    [Fact]
    public void Several_requests_come_back_in_order_each_with_its_own_data()
    {
        using var front = new FrontEnd(_fixture.Socket, packed: true, ringSize: 24);
        front.Connect();
        var header = new byte[16];
        for (var round = 0; round < 50; round++)
        {
            var ids = new List<int>();
            for (var i = 0UL; i < 8; i++)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(8), i);
                front.Memory.Write(HeaderAt + (i * 16), header);
                ids.Add(front.Ring.Add([Buffer(HeaderAt + (i * 16), 16, false), Buffer(DataAt + (i * 512), 512, true), Buffer(StatusAt + i, 1, true)]));
            }

            front.Ring.RequestCalls(true);
            if (front.Ring.Publish())
                front.Kick.Signal();
            foreach (var id in ids)
            {
                ushort head = 0;
                var written = 0u;
                Deadline.Until(() => front.Ring.TryTakeUsed(out head, out written, out _), "a used buffer");
                Assert.Equal((id, 513u), (head, written));
            }
        }
    }
}
