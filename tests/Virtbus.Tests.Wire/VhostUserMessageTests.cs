using Virtbus.Platform;
using Virtbus.Wire.VhostUser;
using static Virtbus.Tests.WireMessages;
using static Virtbus.Wire.VhostUser.VhostUserRequest;

namespace Virtbus.Tests.Wire;

/// <summary>Which payload and how many descriptors each vhost-user request has, as the specification's table says.</summary>
public sealed class VhostUserMessageTests : IDisposable
{
    private readonly EventFd _any = new();

    public void Dispose() => _any.Dispose();

    /// <summary>Request, bytes of its payload, least and most descriptors, whether it has a reply of its own.</summary>
    private static readonly (VhostUserRequest Request, int Size, int Least, int Most, bool HasReply)[] _shapes =
    [
        (GET_FEATURES, 0, 0, 0, true), (SET_FEATURES, 8, 0, 0, false), (SET_OWNER, 0, 0, 0, false), (RESET_OWNER, 0, 0, 0, false),
        (SET_MEM_TABLE, 8, 0, 0, false), (SET_VRING_NUM, 8, 0, 0, false), (SET_VRING_ADDR, 40, 0, 0, false), (SET_VRING_BASE, 8, 0, 0, false),
        (GET_VRING_BASE, 8, 0, 0, true), (SET_VRING_KICK, 8, 1, 1, false), (SET_VRING_CALL, 8, 1, 1, false), (SET_VRING_ERR, 8, 1, 1, false),
        (GET_PROTOCOL_FEATURES, 0, 0, 0, true), (SET_PROTOCOL_FEATURES, 8, 0, 0, false), (GET_QUEUE_NUM, 0, 0, 0, true),
        (SET_VRING_ENABLE, 8, 0, 0, false), (SET_BACKEND_REQ_FD, 0, 1, 1, false), (GET_CONFIG, 12, 0, 0, true), (SET_CONFIG, 12, 0, 0, false),
        (RESET_DEVICE, 0, 0, 0, false), (GET_MAX_MEM_SLOTS, 0, 0, 0, true), (ADD_MEM_REG, 40, 1, 1, false), (REM_MEM_REG, 40, 0, 1, false),
        (SET_STATUS, 8, 0, 0, false), (GET_STATUS, 0, 0, 0, true),
    ];

    private VhostUserMessage Make(VhostUserRequest request, byte[] payload, int descriptors, uint flags = 1) =>
        new(new VhostUserHeader { Request = request, Flags = flags, Size = (uint)payload.Length }, payload, [.. Enumerable.Repeat(_any.Descriptor, descriptors)]);

    private Errno Check(VhostUserRequest request, byte[] payload, int descriptors)
    {
        Assert.Equal(Make(request, payload, descriptors).TryCheckShape(out var fault), fault == Fault.None);
        return fault.Errno;
    }

    [Fact]
    public void Every_request_has_its_payload_and_its_descriptors_and_nothing_else()
    {
        Assert.Equal(Enum.GetValues<VhostUserRequest>(), _shapes.Select(shape => shape.Request));
        foreach (var (request, size, least, most, _) in _shapes)
        {
            foreach (var other in new[] { 0, 1, 4, 7, 8, 9, 11, 12, 13, 16, 39, 40, 41, 64, VhostUserProtocol.MaxPayload })
            {
                for (var count = 0; count <= 3; count++)
                {
                    var expected = other == size && count >= least && count <= most ? Errno.None : Errno.EBADMSG;
                    Assert.Equal((request, other, count, expected), (request, other, count, Check(request, new byte[other], count)));
                }
            }
        }
    }

    [Fact]
    public void Requests_that_are_not_known_are_told_from_bad_ones()
    {
        foreach (var number in new uint[] { 0, 6, 7, 19, 20, 22, 23, 26, 33, 35, 41, 44, 1000, uint.MaxValue })
        {
            Assert.Equal((number, Errno.EOPNOTSUPP), (number, Check((VhostUserRequest)number, [], 0)));
            Assert.Equal((number, Errno.EOPNOTSUPP), (number, Check((VhostUserRequest)number, new byte[100], 5)));
            Assert.False(Make((VhostUserRequest)number, [], 0).HasReply);
        }
    }

    [Theory]
    [InlineData(SET_VRING_KICK)]
    [InlineData(SET_VRING_CALL)]
    [InlineData(SET_VRING_ERR)]
    internal void Ring_without_a_descriptor_says_so_by_its_bit(VhostUserRequest request)
    {
        foreach (var (number, descriptors, expected) in new[]
        {
            (0x103UL, 0, Errno.None), (0x103UL, 1, Errno.EBADMSG), (3UL, 1, Errno.None), (3UL, 0, Errno.EBADMSG), (3UL, 2, Errno.EBADMSG),
            (0xfeffUL, 1, Errno.None), (0xfeffUL, 0, Errno.EBADMSG), (ulong.MaxValue, 0, Errno.None),
        })
            Assert.Equal((number, descriptors, expected), (number, descriptors, Check(request, Longs(number), descriptors)));
    }

    [Theory]
    [InlineData(1, 40, 1, true)]
    [InlineData(1, 40, 0, false)]
    [InlineData(1, 40, 2, false)]
    [InlineData(1, 39, 1, false)]
    [InlineData(1, 41, 1, false)]
    [InlineData(0, 40, 0, false)]
    [InlineData(2, 40, 2, false)]
    [InlineData(8, 264, 8, true)]
    [InlineData(8, 264, 7, false)]
    [InlineData(64, 2056, 64, true)]
    [InlineData(65, 2088, 65, false)]
    [InlineData(0x0800_0000, 8, 0, false)]
    [InlineData(uint.MaxValue, 8, 0, false)]
    public void Table_of_memory_has_a_descriptor_for_each_region(uint count, int size, int descriptors, bool isGood)
    {
        var payload = new byte[size];
        Words(count).CopyTo(payload, 0);
        Assert.Equal(isGood ? Errno.None : Errno.EBADMSG, Check(SET_MEM_TABLE, payload, descriptors));
    }

    [Theory]
    [InlineData(0, 12, true)]
    [InlineData(1, 13, true)]
    [InlineData(1, 12, false)]
    [InlineData(1, 14, false)]
    [InlineData(60, 72, true)]
    [InlineData(256, 268, true)]
    [InlineData(257, 269, false)]
    [InlineData(uint.MaxValue, 11 + 1, false)]
    [InlineData(uint.MaxValue, 11, false)]
    [InlineData(0x8000_0000, 12, false)]
    public void Configuration_is_as_long_as_it_says(uint bytes, int size, bool isGood)
    {
        var payload = new byte[size];
        Words(0, bytes).CopyTo(payload, 0);
        Assert.Equal(isGood ? Errno.None : Errno.EBADMSG, Check(GET_CONFIG, payload, 0));
        Assert.Equal(isGood ? Errno.None : Errno.EBADMSG, Check(SET_CONFIG, payload, 0));
        Assert.Equal(Errno.EBADMSG, Check(SET_CONFIG, payload, 1));
    }

    [Fact]
    public void Only_requests_with_a_reply_of_their_own_get_no_acknowledgement()
    {
        foreach (var shape in _shapes)
            Assert.Equal((shape.Request, shape.HasReply), (shape.Request, Make(shape.Request, [], 0).HasReply));
        foreach (var (flags, needs) in new[] { (1u, false), (9u, true), (8u, true), (5u, false), (0xfffffff7u, false), (uint.MaxValue, true) })
        {
            var message = Make(SET_OWNER, [], 0, flags);
            Assert.Equal((flags, needs, flags), (flags, message.NeedReply, message.Flags));
        }
    }

    [Fact]
    public void Payload_is_read_from_any_place_and_descriptors_are_taken_from_the_front()
    {
        using var other = new EventFd();
        List<FileDescriptor> list = [_any.Descriptor, other.Descriptor];
        var message = new VhostUserMessage(new VhostUserHeader { Request = SET_VRING_NUM }, Longs(0x1122334455667788, 9), list);
        Assert.Equal((0x1122334455667788UL, 9UL, 0x11223344u, 16), (message.Number, message.Read<ulong>(8), message.Read<uint>(4), message.Payload.Length));
        Assert.Equal(0x55667788u, message.Read<VhostUserRingState>().Index);
        Assert.Same(_any.Descriptor, message.TakeDescriptor());
        Assert.Equal([other.Descriptor], message.Descriptors);
        message.ReturnDescriptor(_any.Descriptor);
        Assert.Equal([other.Descriptor, _any.Descriptor], list);
    }
}
