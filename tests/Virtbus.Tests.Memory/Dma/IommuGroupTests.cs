using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using static Virtbus.Tests.Memory.Dma.DmaFixture;

namespace Virtbus.Tests.Memory.Dma;

public class IommuGroupTests
{
    private readonly IommuGroup _group = new(4);
    private readonly DmaPort _port;
    private readonly object _user = new();

    public IommuGroupTests() => _port = new DmaPort("0000:01:00.0", _group) { IsBusMaster = true };

    [Theory]
    [InlineData("", DmaOwnerKind.None, null)]
    [InlineData("d", DmaOwnerKind.Driver, "driver")]
    [InlineData("dd", DmaOwnerKind.Driver, "driver")]
    [InlineData("dD", DmaOwnerKind.Driver, "driver, other")]
    [InlineData("ddr", DmaOwnerKind.Driver, "driver")]
    [InlineData("dDr", DmaOwnerKind.Driver, "other")]
    [InlineData("dr", DmaOwnerKind.None, null)]
    [InlineData("u", DmaOwnerKind.User, "user")]
    [InlineData("uu", DmaOwnerKind.User, "user")]
    [InlineData("uux", DmaOwnerKind.User, "user")]
    [InlineData("uuxx", DmaOwnerKind.None, null)]
    [InlineData("ux", DmaOwnerKind.None, null)]
    [InlineData("uX", DmaOwnerKind.User, "user")]
    [InlineData("ud!", DmaOwnerKind.User, "user")]
    [InlineData("uU!", DmaOwnerKind.User, "user")]
    [InlineData("du!", DmaOwnerKind.Driver, "driver")]
    [InlineData("ddru!", DmaOwnerKind.Driver, "driver")]
    [InlineData("dru", DmaOwnerKind.User, "user")]
    [InlineData("uxd", DmaOwnerKind.Driver, "driver")]
    [InlineData("uxU", DmaOwnerKind.User, "second")]
    public void Ownership_is_none_drivers_or_one_user(string steps, DmaOwnerKind kind, string? name)
    {
        var second = new object();
        for (var i = 0; i < steps.Length; i++)
        {
            var fault = Fault.None;
            var good = steps[i] switch
            {
                'd' => _group.TryClaimForDriver("driver", out fault),
                'D' => _group.TryClaimForDriver("other", out fault),
                'u' => _group.TryClaimForUser(_user, "user", out fault),
                'U' => _group.TryClaimForUser(second, "second", out fault),
                'r' => Do(() => _group.ReleaseDriver("driver")),
                'x' => Do(() => _group.ReleaseUser(_user)),
                'X' => Do(() => _group.ReleaseUser(second)),
                _ => true,
            };
            var refused = i + 1 < steps.Length && steps[i + 1] == '!';
            Assert.Equal((!refused, refused ? Errno.EBUSY : Errno.None), (good, fault.Errno));
            if (refused)
                Assert.Contains(kind == DmaOwnerKind.User ? "'user'" : "driver", fault.Message, StringComparison.Ordinal);
        }

        Assert.Equal((kind, name), (_group.OwnerKind, _group.OwnerName));

        static bool Do(Action action)
        {
            action();
            return true;
        }
    }

    [Fact]
    public void Owners_change_is_told_when_it_is_one()
    {
        var owners = new List<string?>();
        using var watch = _group.Observe(null, () => owners.Add(_group.OwnerName));
        Assert.True(_group.TryClaimForDriver("a", out _));
        Assert.True(_group.TryClaimForDriver("a", out _));
        Assert.True(_group.TryClaimForDriver("b", out _));
        Assert.False(_group.TryClaimForUser(_user, "user", out _));
        _group.ReleaseDriver("a");
        _group.ReleaseDriver("a");
        _group.ReleaseDriver();
        Assert.True(_group.TryClaimForUser(_user, "user", out _));
        Assert.True(_group.TryClaimForUser(_user, "user", out _));
        _group.ReleaseUser(_user);
        _group.ReleaseUser(_user);
        _group.ReleaseUser(_user);
        Assert.Equal(["a", "a, b", "b", null, "user", null], owners);
        Assert.Throws<InvalidOperationException>(() => _group.ReleaseDriver());
    }

    [Fact]
    public void Losers_dma_faults_and_is_counted_and_the_users_is_not_seen_by_drivers()
    {
        Assert.True(_group.TryClaimForDriver("driver", out _));
        Assert.True(_group.TryAllocate(100, out var buffer, out _));
        Assert.True(_port.TryWrite(buffer!.Address, [5]));
        Assert.Equal(5, buffer.Span[0]);
        _group.ReleaseDriver();
        Assert.False(_port.TryWrite(buffer.Address, [6]));
        Assert.Equal(Errno.ENODEV, _port.LastFault!.Value.Fault.Errno);
        Assert.True(_group.TryClaimForUser(_user, "user", out _));
        Assert.False(_port.TryWrite(buffer.Address, [6]));
        Assert.Equal(Errno.ENODEV, _port.LastFault!.Value.Fault.Errno);
        Assert.False(_group.TryAllocate(100, out _, out var fault));
        Assert.Equal(Errno.EPERM, fault.Errno);
        using var space = new IoAddressSpace();
        Assert.True(_group.TryAttach(_user, _port, space, out _));
        Assert.False(_port.TryWrite(buffer.Address, [6]));
        Assert.Equal(Errno.EFAULT, _port.LastFault!.Value.Fault.Errno);
        Assert.Equal(3, _port.Faults);
        Assert.Equal(5, buffer.Span[0]);
        _group.ReleaseUser(_user);
        Assert.Null(_port.AddressSpace);
        // A new ownership of drivers does not bring the old buffer back.
        Assert.True(_group.TryClaimForDriver("driver", out _));
        Assert.False(_port.TryWrite(buffer.Address, [6]));
        buffer.Dispose();
        Assert.True(_group.TryAllocate(100, out buffer, out _));
        Assert.True(_port.TryWrite(buffer!.Address, [7]));
        buffer.Dispose();
    }

    [Fact]
    public void Driver_that_claims_nothing_gets_no_memory_and_its_function_faults()
    {
        Assert.False(_group.TryAllocate(4096, out var buffer, out var fault));
        Assert.Null(buffer);
        Assert.Equal(Errno.EPERM, fault.Errno);
        Assert.False(_port.TryRead(new Iova(0x10000), new byte[1]));
        Assert.Equal(1, _port.Faults);
    }

    [Fact]
    public void Ports_of_one_group_share_memory_and_those_of_another_do_not()
    {
        var second = new DmaPort("0000:01:00.1", _group) { IsBusMaster = true };
        var elsewhere = new IommuGroup(5);
        var stranger = new DmaPort("0000:02:00.0", elsewhere) { IsBusMaster = true };
        Assert.True(_group.TryClaimForDriver("driver", out _));
        Assert.True(elsewhere.TryClaimForDriver("driver", out _));
        var late = new DmaPort("0000:01:00.2", _group) { IsBusMaster = true };
        Assert.True(_group.TryAllocate(4096, out var buffer, out _));
        Assert.True(second.TryWrite(buffer!.Address, [1]));
        Assert.True(late.TryWrite(buffer.Address, [1]));
        Assert.False(stranger.TryWrite(buffer.Address, [1]));
        Assert.Equal(3, _group.Ports.Count);
        late.LeaveGroup();
        Assert.False(late.TryWrite(buffer.Address, [1]));
        Assert.Equal([_port, second], _group.Ports);
        buffer.Dispose();
    }

    [Fact]
    public void Only_the_owner_attaches_and_only_ports_of_the_group()
    {
        using var space = new IoAddressSpace();
        var stranger = new DmaPort("0000:02:00.0", new IommuGroup(5));
        Assert.False(_group.TryAttach(_user, _port, space, out var fault));
        Assert.Equal(Errno.EPERM, fault.Errno);
        Assert.True(_group.TryClaimForUser(_user, "user", out _));
        Assert.False(_group.TryAttach(new object(), _port, space, out fault));
        Assert.Equal(Errno.EPERM, fault.Errno);
        Assert.False(_group.TryAttach(_user, stranger, space, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(_group.TryAttach(_user, stranger.ForPasid(1), space, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(_group.TryAttachPasid(_port.ForPasid(1), space, out fault));
        Assert.Equal(Errno.EPERM, fault.Errno);
        Assert.True(_group.TryAttach(_user, _port, space, out _));
        Assert.True(_group.TryAttach(_user, _port.ForPasid(1), space, out _));
        Assert.True(_group.TryAttach(_user, _port, null, out _));
        Assert.Null(_port.AddressSpace);
        Assert.Same(space, _port.ForPasid(1).AddressSpace);
        _port.LeaveGroup();
        Assert.Null(_port.ForPasid(1).AddressSpace);
        Assert.False(_group.TryAttach(_user, _port, space, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public void Driver_hands_a_PASID_of_its_function_to_a_users_memory_until_it_lets_the_function_go()
    {
        using var file = MemoryFile.Create("virtbus-test", Page);
        using var guest = new GuestMemory();
        Assert.True(guest.TryAdd(new GuestRegion(new GuestAddress(0x40000), Page, new UserAddress(0x1000), 0), file, out _));
        Assert.True(_group.TryClaimForDriver("nic", out _));
        Assert.False(_group.TryAttachPasid(_port, guest.AddressSpace, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        var pasid = _port.ForPasid(9);
        Assert.True(_group.TryAttachPasid(pasid, guest.AddressSpace, out _));
        Assert.True(pasid.TryWrite(new Iova(0x40000), [1, 2, 3]));
        Assert.False(_port.TryWrite(new Iova(0x40000), [1, 2, 3]));
        Assert.True(guest.TryReplace([new GuestRegion(new GuestAddress(0x50000), Page, new UserAddress(0x1000), 0)], [file], out _));
        Assert.False(pasid.TryRead(new Iova(0x40000), new byte[3]));
        var read = new byte[3];
        Assert.True(pasid.TryRead(new Iova(0x50000), read));
        Assert.Equal([1, 2, 3], read);
        _group.ReleaseDriver("nic");
        Assert.False(pasid.TryRead(new Iova(0x50000), read));
        Assert.Equal(Errno.ENODEV, pasid.LastFault!.Value.Fault.Errno);
    }

    [Fact]
    public void Buffers_are_zero_filled_whole_pages_at_addresses_of_their_own()
    {
        Assert.True(_group.TryClaimForDriver("driver", out _));
        var mappings = Kernel.Mappings;
        var descriptors = Kernel.DescriptorsBefore();
        var random = new Random(1);
        var buffers = new List<DmaBuffer>();
        for (var i = 0; i < 60; i++)
        {
            var size = (ulong)random.Next(1, 20_000);
            Assert.True(_group.TryAllocate(size, out var buffer, out _));
            Assert.Equal((size + 4095) & ~4095ul, buffer!.Size);
            Assert.Equal((int)buffer.Size, buffer.Span.Length);
            Assert.False(buffer.Span.ContainsAnyExcept((byte)0));
            Assert.Equal(0ul, buffer.Address.Value & 4095);
            Assert.True(buffer.Address.Value >= 0x10000);
            buffer.Span.Fill(1);
            buffers.Add(buffer);
            if (i % 3 != 2)
                continue;
            var gone = buffers[i / 2];
            buffers.RemoveAt(i / 2);
            gone.Dispose();
            gone.Dispose();
            Assert.Throws<ObjectDisposedException>(() => gone.Span.Length);
        }

        var live = buffers.OrderBy(buffer => buffer.Address.Value).ToList();
        Assert.All(live, buffer => Assert.True(_port.TryRead(buffer.Address, new byte[buffer.Size])));
        Assert.All(live.Zip(live.Skip(1)), pair => Assert.True(pair.First.Address.Value + pair.First.Size <= pair.Second.Address.Value));
        foreach (var buffer in buffers)
            buffer.Dispose();
        Assert.Equal((mappings, descriptors), (Kernel.Mappings, Kernel.Descriptors));
    }

    [Fact]
    public void Buffer_addresses_leave_out_the_window_of_messages_and_are_used_again()
    {
        Assert.True(_group.TryClaimForDriver("driver", out _));
        var buffers = new List<DmaBuffer>();
        // Four times 1 GiB, not touched, come to beyond the window below 4 GiB.
        for (var i = 0; i < 5; i++)
        {
            Assert.True(_group.TryAllocate(1 << 30, out var buffer, out _));
            buffers.Add(buffer!);
        }

        Assert.All(buffers, buffer => Assert.False(buffer.Address.Value < 0xFEF00000 && buffer.Address.Value + buffer.Size > 0xFEE00000));
        var again = buffers[2].Address;
        buffers[2].Dispose();
        Assert.True(_group.TryAllocate(1 << 30, out var reused, out _));
        Assert.Equal(again, reused!.Address);
        foreach (var buffer in buffers)
            buffer.Dispose();
        reused.Dispose();
        Assert.False(_group.TryAllocate(0, out _, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(_group.TryAllocate((1 << 30) + 1, out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public void Words_of_a_buffer_are_the_functions_too()
    {
        Assert.True(_group.TryClaimForDriver("driver", out _));
        Assert.True(_group.TryAllocate(4096, out var buffer, out _));
        Volatile.Write(ref buffer!.Word(4092), 0x01020304);
        var read = new byte[4];
        Assert.True(_port.TryRead(new Iova(buffer.Address.Value + 4092), read));
        Assert.Equal(0x01020304u, BitConverter.ToUInt32(read));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Word(2));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Word(4096));
        buffer.Dispose();
    }

    [Fact]
    public void Buffer_keeps_its_descriptor_when_the_group_wants_it()
    {
        Assert.True(_group.TryClaimForDriver("driver", out _));
        var descriptors = Kernel.DescriptorsBefore();
        Assert.True(_group.TryAllocate(4096, out var plain, out _));
        _group.KeepsFiles = true;
        Assert.True(_group.TryAllocate(8192, out var kept, out _));
        Assert.Equal(descriptors + 1, Kernel.Descriptors);
        kept!.Span[4097] = 3;
        using (var map = _port.Snapshot())
        {
            Assert.Null(map.Ranges[0].File);
            Assert.Equal(kept.Address, map.Ranges[1].Start);
            Assert.True(HostMemory.TryMap(map.Ranges[1].File!, map.Ranges[1].FileOffset + 4096, 4096, DmaAccess.Read, out var same, out _));
            var read = new byte[2];
            same!.Read(0, read);
            Assert.Equal(3, read[1]);
            same.Dispose();
        }

        plain!.Dispose();
        kept.Dispose();
        Assert.Equal(descriptors, Kernel.Descriptors);
    }

    [Fact]
    public void Claims_from_many_threads_have_one_winner_at_a_time()
    {
        var owners = 0;
        var bad = 0;
        var wins = 0;
        var threads = Enumerable.Range(0, 4).Select(number => new Thread(() =>
        {
            var me = new object();
            for (var i = 0; i < 3000; i++)
            {
                var won = number % 2 == 0 ? _group.TryClaimForUser(me, $"user{number}", out _) : _group.TryClaimForDriver($"driver{number}", out _);
                if (!won)
                    continue;
                Interlocked.Increment(ref wins);
                // Drivers share; a user is alone.
                if (number % 2 == 0 && Interlocked.Increment(ref owners) != 1)
                    Interlocked.Increment(ref bad);
                if (number % 2 != 0 && Volatile.Read(ref owners) != 0)
                    Interlocked.Increment(ref bad);
                if (number % 2 == 0)
                {
                    Interlocked.Decrement(ref owners);
                    _group.ReleaseUser(me);
                }
                else
                {
                    _group.ReleaseDriver($"driver{number}");
                }
            }
        }) { IsBackground = true }).ToArray();
        foreach (var thread in threads)
        {
            thread.IsBackground = true;
            thread.Start();
        }

        Assert.All(threads, thread => Assert.True(thread.Join(Deadline.Milliseconds)));
        Assert.Equal(0, bad);
        Assert.True(wins > 0);
        Assert.Equal(DmaOwnerKind.None, _group.OwnerKind);
    }
}
