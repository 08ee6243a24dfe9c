using Virtbus.Memory;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A command as a device sees it.</summary>
internal sealed record AdminGiven(ushort Head, AdminCommand Command, byte[] Data, Iova AnswerAddress, int AnswerLength);
