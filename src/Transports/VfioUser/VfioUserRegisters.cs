using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>A client's reads and writes of the device's regions. Used by the session's thread, but for <see cref="AnswerFirst"/>.</summary>
/// <param name="session">Whose.</param>
/// <param name="handle">The device.</param>
/// <param name="most">The most bytes in one message.</param>
internal sealed class VfioUserRegisters(VfioUserSession session, VfioHandle handle, int most)
{
    private readonly VfioUserAnswers _answers = session.Answers;
    private readonly Lock _answerLock = new();
    private readonly byte[] _answer = new byte[HeaderSize + RegionAccessSize];
    private int _answerSize;

    internal bool TryRead(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheck(message, out var access, out fault))
            return false;
        var count = (int)access.Count;
        if (message.Payload.Length != RegionAccessSize)
            return Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
        if (!_answers.TryBegin(message, RegionAccessSize + count, out var bytes))
            return true;
        MemoryMarshal.Write(bytes, in access);
        if (!handle.TryRead(access.Region, access.Offset, bytes[RegionAccessSize..], out fault))
            return false;
        return !message.WantsReply || _answers.Keep(RegionAccessSize + count);
    }

    internal bool TryWrite(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheck(message, out var access, out fault))
            return false;
        if (message.Payload.Length != RegionAccessSize + (int)access.Count)
            return Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
        if (session.Memory.IsRemote && message.WantsReply)
            return TryWriteAnswerable(message, message.Payload[..RegionAccessSize], out fault);
        return handle.TryWrite(access.Region, access.Offset, message.Payload[RegionAccessSize..], out fault) &&
            _answers.Echo(message, RegionAccessSize, out fault);
    }

    internal bool TryWriteMulti(in VfioUserMessage message, out Fault fault)
    {
        if (message.Payload.Length < WriteMultiSize)
            return Refuse(Errno.EINVAL, "the message is shorter than its command", out fault);
        var count = message.Read<VfioUserWriteMulti>().Count;
        if (count > (ulong)(message.Payload.Length / WriteEntrySize) || message.Payload.Length != WriteMultiSize + ((int)count * WriteEntrySize))
            return Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
        // All of them are looked at before the first is done.
        for (var at = WriteMultiSize; at < message.Payload.Length; at += WriteEntrySize)
        {
            var access = message.Read<VfioUserRegionAccess>(at);
            if (access.Count is 0 or > WriteMultiData)
                return Refuse(Errno.EINVAL, "an entry has no data, or more than fits into it", out fault);
            if (!handle.CanWrite(access.Region, access.Offset, (int)access.Count, out fault))
                return false;
        }

        if (session.Memory.IsRemote && message.WantsReply)
            return TryWriteAnswerable(message, message.Payload[..WriteMultiSize], out fault);
        return TryWriteEntries(message, out fault) && _answers.Echo(message, WriteMultiSize, out fault);
    }

    /// <summary>Sends the answer to the write that the device is at, if there is one to be sent. On the thread of the device's DMA.</summary>
    internal void AnswerFirst()
    {
        lock (_answerLock)
        {
            if (_answerSize == 0)
                return;
            session.Channel.TrySend(_answer.AsSpan(0, _answerSize), default);
            _answerSize = 0;
        }
    }

    private bool TryCheck(in VfioUserMessage message, out VfioUserRegionAccess access, out Fault fault)
    {
        fault = Fault.None;
        if (message.Payload.Length < RegionAccessSize)
        {
            access = default;
            return Refuse(Errno.EINVAL, "the message is shorter than its command", out fault);
        }

        access = message.Read<VfioUserRegionAccess>();
        return access.Count <= (uint)most || Refuse(Errno.EINVAL, "more is asked for than one message may carry", out fault);
    }

    private bool TryWriteEntries(in VfioUserMessage message, out Fault fault)
    {
        fault = Fault.None;
        for (var at = WriteMultiSize; at < message.Payload.Length; at += WriteEntrySize)
        {
            var access = message.Read<VfioUserRegionAccess>(at);
            if (!handle.TryWrite(access.Region, access.Offset, message.Payload.Slice(at + WriteMultiDataAt, (int)access.Count), out fault))
                return false;
        }

        return true;
    }

    /// <summary>
    /// A write after which the device may want the client's memory by messages before it is through. The client may not answer them before it
    /// has its own answer: QEMU's processor holds the lock that its main loop needs for them. So the answer goes first, when there is one to
    /// go: a write on the bus has no result either.
    /// </summary>
    private bool TryWriteAnswerable(in VfioUserMessage message, ReadOnlySpan<byte> reply, out Fault fault)
    {
        VfioUserMessage.WriteHeader(_answer, message.Id, message.Command, HeaderSize + reply.Length, TypeReply);
        reply.CopyTo(_answer.AsSpan(HeaderSize));
        lock (_answerLock)
            _answerSize = HeaderSize + reply.Length;
        bool good;
        if (message.Command == VfioUserCommand.REGION_WRITE)
        {
            var access = message.Read<VfioUserRegionAccess>();
            good = handle.TryWrite(access.Region, access.Offset, message.Payload[RegionAccessSize..], out fault);
        }
        else
        {
            good = TryWriteEntries(message, out fault);
        }

        bool due;
        lock (_answerLock)
        {
            due = _answerSize > 0;
            _answerSize = 0;
        }

        if (!due)
        {
            if (!good)
                session.LogBadMessage(message.Command, fault, "it was answered before");
            fault = Fault.None;
            return true;
        }

        return good && _answers.Echo(message, reply.Length, out fault);
    }
}
