using Virtbus.Hardware.VirtioPci;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>A function whose vectors are switched on or off each time that somebody has asked whether they are on.</summary>
internal sealed class SwitchedPort : IVirtioUnitPort, IVirtioRegisterHost
{
    private bool _isOn;

    public int Vectors => 4;

    public int VectorLimit => Vectors;

    public bool IsMsixEnabled
    {
        get
        {
            var was = _isOn;
            _isOn = !was;
            return was;
        }

        internal set => _isOn = value;
    }

    public FaultSource? Faults => null;

    public void TellDriverFault(int queue, Fault fault)
    {
    }

    public void RaiseVector(int vector)
    {
    }

    public void StageLine(bool asserted)
    {
    }

    public void ShowLine()
    {
    }

    public void Raise(ushort vector)
    {
    }

    public void Tell()
    {
    }
}
